"""The main job on one's own data: a ladder of models within a time budget, the best of them as one bundle."""
