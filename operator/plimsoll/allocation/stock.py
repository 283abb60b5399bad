"""Free resources of nodes, and where the pieces of replicas were put: each wholly on one node of its option's pool.

Callers count replicas; places count pieces, and pieces of one replica may share a node.
"""

import numpy as np

from plimsoll.allocation.problem import ANY_NUMBER, CPU, GPU, AllocationProblem, Floats, Ints

PLENTY = 1_000_000_000
"""Stands for "no limit" where replicas are counted."""

Places = dict[int, int]
"""Pieces of one option per node."""


def _fitting(free: Floats, demand: Floats) -> Ints:
    """Pieces that fit on each node: (nodes, 3) and (3,) give (nodes,); (shapes, 1, 3) as demand gives both axes."""
    counts: Floats = np.full(np.broadcast_shapes(free.shape, demand.shape)[:-1], float(PLENTY))
    for resource in range(free.shape[-1]):
        need = demand[..., resource]
        per_node = free[..., resource] / np.where(need > 0, need, 1.0) + 1e-9
        counts = np.minimum(counts, np.where(need > 0, per_node, PLENTY))
    whole: Ints = np.maximum(np.floor(counts), 0).astype(np.int64)
    return whole


def distinct(rows: Floats) -> tuple[Floats, Ints]:
    """The different rows, and how often each occurs. Many times faster than `numpy.unique` on as few rows as here."""
    if not len(rows):
        return rows, np.zeros(0, dtype=np.int64)
    ordered = rows[np.lexsort(rows.T[::-1])]
    first = np.flatnonzero(np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1))))
    return ordered[first], np.diff(np.append(first, len(rows)))


class Stock:
    """Mutable stock during one solve: `places[option]` is the packing of what was placed.

    `staying`: where running replicas may move, they still prefer the nodes where they are.
    """

    def __init__(self, problem: AllocationProblem, *, staying: bool = True) -> None:
        free = problem.node_free.astype(np.float64)
        known = problem.running[problem.running[:, 1] >= 0]
        self.places: dict[int, Places] = {}
        self._preferred: dict[int, list[tuple[int, int]]] = {}
        self._most = problem.option_per_node
        self._capped = bool((self._most < ANY_NUMBER).any())
        self._staying: dict[int, Places] = {}
        """Pieces of options with a limit per node that keep their places."""
        if problem.keep_running:
            for option, node, count in known.tolist() if self._capped else ():
                places = self._staying.setdefault(option, {})
                places[node] = places.get(node, 0) + count
            np.subtract.at(free, known[:, 1], problem.option_demand[known[:, 0]] * known[:, 2:3])
        elif staying:
            for option, node, count in known.tolist():
                self._preferred.setdefault(option, []).append((node, count))
        pools = len(problem.pool_unlimited)
        order = np.argsort(problem.node_pool, kind="stable")
        ends = np.searchsorted(problem.node_pool[order], np.arange(pools + 1))
        self._nodes = [order[ends[pool] : ends[pool + 1]] for pool in range(pools)]
        self._free = [free[nodes] for nodes in self._nodes]
        self._slot = np.zeros(len(order), dtype=np.int64)
        for nodes in self._nodes:
            self._slot[nodes] = np.arange(len(nodes))
        self._unlimited = problem.pool_unlimited
        self._pool = problem.option_pool
        self._demand = problem.option_demand
        self._pieces = problem.option_nodes
        self._changed: dict[int, dict[int, Floats]] = {}
        """Per pool and slot: what was free when the places were counted last."""
        self._index_shapes(pools)

    def _index_shapes(self, pools: int) -> None:
        """Options with the same pool, demand and limit per node share one count of places, kept up to date by node.

        It does not know of an option's own pieces: see `room`.
        """
        options = len(self._pool)
        order = np.lexsort((self._most, self._demand[:, 2], self._demand[:, 1], self._demand[:, 0], self._pool))
        new = np.ones(options, dtype=bool)
        pool, demand, most = self._pool[order], self._demand[order], self._most[order]
        new[1:] = (pool[1:] != pool[:-1]) | (demand[1:] != demand[:-1]).any(axis=1) | (most[1:] != most[:-1])
        self._shape = np.zeros(options, dtype=np.int64)
        self._shape[order] = np.cumsum(new) - 1
        self._shape_demand = demand[new][:, None, :]
        self._shape_most = most[new][:, None]
        ends = np.searchsorted(pool[new], np.arange(pools + 1)).tolist()
        self._pool_shapes = [slice(ends[number], ends[number + 1]) for number in range(pools)]
        self._shape_room = np.full(len(self._shape_demand), PLENTY, dtype=np.int64)
        for number in np.flatnonzero(~self._unlimited).tolist():
            shapes = self._pool_shapes[number]
            if shapes.start == shapes.stop:
                continue
            alike, nodes = distinct(self._free[number])
            self._shape_room[shapes] = self._fitting_shapes(alike, shapes) @ nodes

    def _fitting_shapes(self, free: Floats, shapes: slice) -> Ints:
        fitting: Ints = np.minimum(_fitting(free, self._shape_demand[shapes]), self._shape_most[shapes])
        return fitting

    def room(self, options: Ints) -> Ints:
        """Replicas of each option that would fit now, each taken alone."""
        for pool, changed in self._changed.items():
            shapes = self._pool_shapes[pool]
            now = self._free[pool][list(changed)]
            difference = self._fitting_shapes(np.concatenate((now, list(changed.values()))), shapes)
            self._shape_room[shapes] += difference[:, : len(now)].sum(axis=1) - difference[:, len(now) :].sum(axis=1)
        self._changed.clear()
        pieces = np.minimum(self._shape_room[self._shape[options]], PLENTY)
        if self._capped:
            pieces = pieces - np.array([self._taken_by_own(option) for option in options.tolist()], dtype=np.int64)
        return pieces // self._pieces[options]

    def _taken_by_own(self, option: int) -> int:
        """Places that other options of the shape find and this one does not, for its own pieces there."""
        taken, most = 0, int(self._most[option])
        if most == ANY_NUMBER or self._unlimited[self._pool[option]]:
            return 0
        free = self._free[int(self._pool[option])]
        for node in {*self._staying.get(option, ()), *self.places.get(option, ())}:
            fits = int(_fitting(free[None, self._slot[node]], self._demand[option])[0])
            taken += min(fits, most) - min(fits, self._left_on(option, node))
        return taken

    def _left_on(self, option: int, node: int) -> int:
        """Pieces of the option that its limit per node still allows there."""
        there = self._staying.get(option, {}).get(node, 0) + self.places.get(option, {}).get(node, 0)
        return max(0, int(self._most[option]) - there)

    def place(self, option: int, count: int) -> None:
        """Put replicas on the nodes where they run now, else best fit: on the fullest nodes that can take them."""
        if count <= 0 or self._unlimited[self._pool[option]]:
            return
        pieces = count * int(self._pieces[option])
        if self.place_best_fit(option, pieces - self.place_where_running(option, pieces)):
            raise ValueError(f"option {option} was given {count} replicas more than its pool can hold")

    def place_where_running(self, option: int, count: int) -> int:
        """Put up to `count` pieces on the nodes where they run now; the number that found a place there."""
        placed = 0
        for node, running in self._preferred.get(option, ()):
            free = self._free[int(self._pool[option])][self._slot[node]]
            fits = int(_fitting(free[None], self._demand[option])[0])
            left = running - self.places.get(option, {}).get(node, 0)
            take = min(count - placed, fits, left, self._left_on(option, node))
            if take > 0:
                self._take(option, node, take)
                placed += take
        return placed

    def place_best_fit(self, option: int, count: int) -> int:
        """Put up to `count` pieces on the fullest nodes that can take them; the number that found no place."""
        if count == 0:
            return 0
        pool = int(self._pool[option])
        free = self._free[pool]
        fits_all = _fitting(free, self._demand[option])
        for slot in np.lexsort((free[:, CPU], free[:, GPU])).tolist():
            take = min(count, int(fits_all[slot]))
            if take > 0 and self._capped:
                take = min(take, self._left_on(option, int(self._nodes[pool][slot])))
            if take > 0:
                self._take(option, int(self._nodes[pool][slot]), take)
                count -= take
                if count == 0:
                    break
        return count

    def release(self, option: int, count: int) -> None:
        """Take replicas back, the last placed first."""
        places = self.places.get(option, {})
        pieces = count * int(self._pieces[option])
        for node in reversed(list(places)):
            take = min(pieces, places[node])
            if take > 0:
                self._take(option, node, -take)
                pieces -= take

    def restore(self, option: int, places: Places) -> None:
        """Make the packing of the option equal to one it had before."""
        now = self.places.get(option, {})
        if now == places:
            return
        for node in [*now, *places]:
            difference = places.get(node, 0) - now.get(node, 0)
            if difference:
                self._take(option, node, difference)
        self.places[option] = dict(places)

    def _take(self, option: int, node: int, count: int) -> None:
        pool, slot = int(self._pool[option]), int(self._slot[node])
        free = self._free[pool]
        self._changed.setdefault(pool, {}).setdefault(slot, free[slot].copy())
        free[slot] -= self._demand[option] * count
        places = self.places.setdefault(option, {})
        places[node] = places.get(node, 0) + count
        if places[node] == 0:
            del places[node]
