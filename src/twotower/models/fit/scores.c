/* Scores of one user of FIT with many items under its learnt scorer, without a step that goes to memory.

   fit_native.py builds it for one model and gives with -D: the counts USER_HEADS, ITEM_HEADS, DIM and HIDDEN; the types
   REAL (of user states, weights and scores), INDEX, STATE and STEP; COUNTED, if states count in steps of their item. */

#include <stdint.h>

enum {
    BLOCK = 16, /* items whose layers are computed together */
    AHEAD = 12, /* how many items before its turn an item is fetched */
};

typedef REAL Similarities[USER_HEADS][ITEM_HEADS][BLOCK];

static REAL relu(REAL x) { return x < 0 ? 0 : x; } /* NaN stays NaN */

static void fetch(const STATE *item)
{
    for (unsigned byte = 0; byte < ITEM_HEADS * DIM * sizeof(STATE); byte += 64)
        __builtin_prefetch((const char *)item + byte);
}

/* The inner product of each of the user's heads with each of the item's, into place b of the block. */
static void multiply(const REAL *user, const STATE *item, REAL step, Similarities similar, int b)
{
    REAL head[ITEM_HEADS * DIM];
    for (int d = 0; d < ITEM_HEADS * DIM; d++) head[d] = (REAL)item[d];
    for (int u = 0; u < USER_HEADS; u++)
        for (int v = 0; v < ITEM_HEADS; v++) {
            REAL sum = 0;
            for (int d = 0; d < DIM; d++) sum += user[u * DIM + d] * head[v * DIM + d];
            similar[u][v][b] = sum * step;
        }
}

/* A layer over the item's heads, one over the user's, and the weighted sum of what comes out. */
static void layers(const REAL *weights, Similarities similar, REAL *out)
{
    const REAL *row = weights, *row_bias = row + HIDDEN * ITEM_HEADS;
    const REAL *column = row_bias + HIDDEN, *column_bias = column + HIDDEN * USER_HEADS;
    const REAL *projection = column_bias + HIDDEN;
    REAL first[USER_HEADS][HIDDEN][BLOCK], total[BLOCK] = {0};
    for (int u = 0; u < USER_HEADS; u++)
        for (int h = 0; h < HIDDEN; h++)
            for (int b = 0; b < BLOCK; b++) {
                REAL sum = row_bias[h];
                for (int v = 0; v < ITEM_HEADS; v++) sum += row[h * ITEM_HEADS + v] * similar[u][v][b];
                first[u][h][b] = relu(sum);
            }
    for (int g = 0; g < HIDDEN; g++)
        for (int h = 0; h < HIDDEN; h++)
            for (int b = 0; b < BLOCK; b++) {
                REAL sum = column_bias[g];
                for (int u = 0; u < USER_HEADS; u++) sum += column[g * USER_HEADS + u] * first[u][h][b];
                total[b] += projection[g * HIDDEN + h] * relu(sum);
            }
    for (int b = 0; b < BLOCK; b++) out[b] = total[b];
}

/* Returns 0; 1 if an item names a query that the user has not; 2 if an id is not a row of the items. */
int scores(const REAL *queries, int64_t query_count, const INDEX *index, const STATE *items, const STEP *steps,
           int64_t item_count, const int64_t *ids, int64_t count, const REAL *weights, REAL *out, int threads)
{
    int wrong = 0;
#pragma omp parallel for num_threads(threads) reduction(max : wrong)
    for (int64_t start = 0; start < count; start += BLOCK) {
        const int size = count - start < BLOCK ? (int)(count - start) : BLOCK;
        Similarities similar = {{{0}}};
        REAL found[BLOCK];
        for (int b = 0; b < size; b++) {
            const int64_t place = start + b, id = ids[place], later = place + AHEAD < count ? ids[place + AHEAD] : -1;
            if (later >= 0 && later < item_count) fetch(items + later * ITEM_HEADS * DIM);
            if (id < 0 || id >= item_count) {
                wrong = 2;
                continue;
            }
            const int64_t query = (int64_t)index[id];
            if (query >= 0 && query < query_count)
                multiply(queries + query * USER_HEADS * DIM, items + id * ITEM_HEADS * DIM,
                         COUNTED ? (REAL)steps[id] : 1, similar, b);
            else if (wrong < 1) /* a thread's own begins far below 0 */
                wrong = 1;
        }
        layers(weights, similar, found);
        for (int b = 0; b < size; b++) out[start + b] = found[b];
    }
    return wrong;
}
