"""Rows of settings in which each pair of levels of two factors occurs."""

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

# A factor and one of its levels.
Level = tuple[str, str]
# Random orders of the factors that are tried for each row. More make fewer rows.
ATTEMPTS = 10


def all_pairs(factors: Mapping[str, Sequence[str]], excluded: Iterable[frozenset[Level]] = ()) -> set[frozenset[Level]]:
    """Each pair of levels of two factors, but for those that are excluded."""
    levels = [[(factor, level) for level in names] for factor, names in factors.items()]
    pairs = {frozenset((a, b)) for one, other in combinations(levels, 2) for a in one for b in other}
    return pairs - set(excluded)


def pairs_in(row: Mapping[str, str]) -> set[frozenset[Level]]:
    """The pairs that a row covers."""
    return {frozenset(pair) for pair in combinations(row.items(), 2)}


def pairwise(factors: Mapping[str, Sequence[str]], excluded: Iterable[frozenset[Level]] = ()) -> list[dict[str, str]]:
    """Rows that cover all pairs, the same at each call (greedy, as AETG: Cohen et al., TSE 1997).

    Args:
        factors (Mapping[str, Sequence[str]]): Names of the levels of each factor.
        excluded (Iterable[frozenset[Level]]): Pairs that occur in no row. Each level must remain possible with some
            level of each other factor.
    """
    excluded, chance = set(excluded), random.Random(0)
    missing, rows = all_pairs(factors, excluded), []
    while missing:
        attempts = [_grow_row(factors, excluded, missing, chance) for _ in range(ATTEMPTS)]
        best = max(attempts, key=lambda row: len(pairs_in(row) & missing))
        missing -= pairs_in(best)
        rows.append({factor: best[factor] for factor in factors})
    return rows


def _grow_row(
    factors: Mapping[str, Sequence[str]],
    excluded: set[frozenset[Level]],
    missing: set[frozenset[Level]],
    chance: random.Random,
) -> dict[str, str]:
    """A row with a missing pair. Each further factor takes a level that adds most missing pairs."""
    row = dict(chance.choice(sorted(missing, key=sorted)))
    rest = [factor for factor in factors if factor not in row]
    for factor in chance.sample(rest, len(rest)):
        added = {level: {frozenset(((factor, level), other)) for other in row.items()} for level in factors[factor]}
        allowed = [level for level, pairs in added.items() if not pairs & excluded]
        row[factor] = max(allowed, key=lambda level: (len(added[level] & missing), chance.random()))
    return row
