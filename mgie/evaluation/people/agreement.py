"""How far raters agree beyond chance, and whether they favour a side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from math import comb

Ratings = Mapping[str, Mapping[str, str]]
"""Rater -> task -> what was chosen."""


def krippendorff(units: Sequence[Sequence[str]]) -> float | None:
    """Krippendorff's alpha of nominal data (Krippendorff 2004, section 11.3): 1 of full agreement, 0 of
    chance. `units` are the choices for each task, of any number of raters; None where nothing can be said."""
    pairable = [unit for unit in units if len(unit) > 1]
    totals = Counter(choice for unit in pairable for choice in unit)
    count = totals.total()
    expected = sum(totals[one] * totals[two] for one, two in permutations(totals, 2))
    if not expected:
        return None
    observed = 0.0
    for unit in pairable:
        own = Counter(unit)
        observed += sum(own[one] * own[two] for one, two in permutations(own, 2)) / (len(unit) - 1)
    return 1 - (count - 1) * observed / expected


def cohen(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa (1960) of two raters over the same tasks; None where both always choose one thing."""
    if not first:
        return None
    count = len(first)
    agreed = sum(one == two for one, two in zip(first, second, strict=True)) / count
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[choice] * theirs[choice] for choice in ours) / count**2
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def fleiss(units: Sequence[Sequence[str]]) -> float | None:
    """Fleiss' kappa (1971) of tasks that all have the same number of raters, two at least; None where nothing
    can be said."""
    if not units or len(units[0]) < 2:
        return None
    raters, totals = len(units[0]), Counter(choice for unit in units for choice in unit)
    agreed = sum((sum(n * n for n in Counter(unit).values()) - raters) for unit in units)
    agreed /= len(units) * raters * (raters - 1)
    chance = sum((n / (len(units) * raters)) ** 2 for n in totals.values())
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def agreement(ratings: Ratings) -> dict[str, float | None]:
    """Of several raters: Krippendorff's alpha over all tasks, the mean of Cohen's kappa over pairs of raters,
    and Fleiss' kappa over the tasks that all of them rated."""
    tasks = list(dict.fromkeys(task for own in ratings.values() for task in own))
    units = [[own[task] for own in ratings.values() if task in own] for task in tasks]
    kappas = []
    for one, two in combinations(ratings.values(), 2):
        shared = [task for task in one if task in two]
        kappas.append(cohen([one[task] for task in shared], [two[task] for task in shared]))
    known = [kappa for kappa in kappas if kappa is not None]
    return {
        "krippendorff": krippendorff(units),
        "cohen": sum(known) / len(known) if known else None,
        "fleiss": fleiss([unit for unit in units if len(unit) == len(ratings)]),
    }


def sign_test(first: int, second: int) -> float:
    """How often a fair coin would fall as unevenly or more (the exact two-sided binomial test)."""
    count, least = first + second, min(first, second)
    return min(1.0, 2 * sum(comb(count, k) for k in range(least + 1)) / 2**count)
