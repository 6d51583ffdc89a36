"""Files decoded in the background, while a head computes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Part], Made], parts: Sequence[Part], workers: int) -> Iterator[Made]:
    """`make` of each part, in order, by so many threads that are at most as many parts ahead; by the caller itself with 0 workers.

    Decoders, resamplers and tokenizers let other threads run, so threads suffice. What is made does not depend on their number: each has
    as many compute threads as the caller.
    """
    if workers == 0 or len(parts) < 2:
        yield from map(make, parts)
        return
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode", initializer=lambda: torch.set_num_threads(threads)) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(make, part))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
