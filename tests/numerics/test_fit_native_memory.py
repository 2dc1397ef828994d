"""The loop in C under the compiler's own sanitizers: it reads and writes what it was given and nothing else."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from twotower.models.fit.native import SOURCE

SIZES = "-DUSER_HEADS=3 -DITEM_HEADS=2 -DDIM=5 -DHIDDEN=7 -DREAL=float -DINDEX=uint8_t"
WATCH = "-g -O1 -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"

CALLER = """
#include SOURCE
#include <stdlib.h>

enum {
    QUERIES = 4,
    ITEMS = 50,
    WEIGHTS = HIDDEN * ITEM_HEADS + HIDDEN + HIDDEN * USER_HEADS + HIDDEN + HIDDEN * HIDDEN,
};

/* Arrays of just the length that the loop may touch; ids of every kind that a caller could send. */
static int asked(int64_t count, int64_t wrong, int query)
{
    REAL *queries = calloc(QUERIES * USER_HEADS * DIM, sizeof *queries), *weights = calloc(WEIGHTS, sizeof *weights);
    STATE *items = calloc(ITEMS * ITEM_HEADS * DIM, sizeof *items);
    STEP *steps = calloc(COUNTED ? ITEMS : 1, sizeof *steps);
    INDEX *index = calloc(ITEMS, sizeof *index);
    int64_t *ids = calloc(count, sizeof *ids);
    REAL *out = calloc(count, sizeof *out);
    for (int64_t i = 0; i < count; i++) ids[i] = (i * 7 + ITEMS - 1) % ITEMS;
    for (int i = 0; i < ITEMS; i++) index[i] = i % QUERIES;
    index[ITEMS - 1] = query;
    if (wrong) ids[count - 1] = wrong;
    const int said = scores(queries, QUERIES, index, items, steps, ITEMS, ids, count, weights, out, 1);
    free(queries), free(weights), free(items), free(steps), free(index), free(ids), free(out);
    return said;
}

int main(void)
{
    for (int64_t count = 1; count < 70; count++) {
        if (asked(count, 0, QUERIES - 1) != 0) return 11;
        if (asked(count, 0, QUERIES) != 1) return 12;
        if (asked(count, ITEMS, 0) != 2) return 13;
        if (asked(count, -1, 0) != 2) return 14;
        if (asked(count, INT64_MAX, 0) != 2) return 15;
        if (asked(count, INT64_MIN, 0) != 2) return 16;
    }
    return 0;
}
"""


def built(folder, source, states):
    """A program that calls the loop; None: this compiler has no sanitizers."""
    caller, program = folder / "caller.c", folder / "caller"
    caller.write_text(CALLER)
    given = [*WATCH.split(), *SIZES.split(), *states.split(), f'-DSOURCE="{source}"', "-o", str(program)]
    empty = subprocess.run(
        ["cc", *WATCH.split(), "-x", "c", "-", "-o", str(program)], input=b"int main(void) { return 0; }", check=False
    )
    if empty.returncode or subprocess.run([program], check=False).returncode:
        return None
    subprocess.run(["cc", *given, str(caller)], check=True)
    return program


STATES = ("-DSTATE=float -DSTEP=float -DCOUNTED=0", "-DSTATE=int8_t -DSTEP=float -DCOUNTED=1")

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.mark.parametrize("states", STATES)
def test_nothing_beyond_the_arrays_is_touched(states, tmp_path):
    program = built(tmp_path, SOURCE, states)
    if program is None:
        pytest.skip("the C compiler has no sanitizers")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("sound", "fault"),
    [
        ("id >= item_count", "id > item_count"),
        ("place + AHEAD < count", "place + AHEAD <= count"),
        ("query < query_count", "query <= query_count"),
        ("b < size; b++) out", "b < BLOCK; b++) out"),
    ],
)
def test_the_sanitizers_see_a_planted_fault(sound, fault, tmp_path):
    text = SOURCE.read_text()
    assert text.count(sound) == 1
    (tmp_path / "faulty.c").write_text(text.replace(sound, fault))
    program = built(tmp_path, tmp_path / "faulty.c", STATES[0])
    if program is None:
        pytest.skip("the C compiler has no sanitizers")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "Sanitizer" in done.stderr
