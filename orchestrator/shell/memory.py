"""How often Python's collector looks for cycles in a worker.

Room rules: the collector's settings and their reasons, nothing else.
"""

from __future__ import annotations

import gc

__all__ = ["collect_seldom"]


def collect_seldom() -> None:
    """Look for cycles once in so many thousand objects; call it when the process is up.

    A batch of 2,000 records holds some 100,000 objects until it is saved, hardly any in a cycle, and every look in the middle
    of it walks through all of them. What is there by now lives as long as the process and is not looked at again.
    """
    gc.freeze()
    gc.set_threshold(200_000, 10, 20)
