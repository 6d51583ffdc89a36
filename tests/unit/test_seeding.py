import hashlib
import subprocess
import sys

import torch

from m2fedsa.seeding import derive, derive_seed


def test_a_seed_is_a_hash_of_its_path():
    """The same on every machine and in every version: half of SHA-256's first eight bytes."""
    text = "7\x1fstr:round\x1fint:3\x1fstr:client-2"
    expected = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") // 2
    assert derive_seed(7, "round", 3, "client-2") == expected
    assert 0 <= expected < 2**63


def test_no_two_paths_share_a_seed():
    paths = [
        (0,),
        (1,),
        (0, "a"),
        (0, "a", "b"),
        (0, "b", "a"),
        (0, "ab"),
        (0, "a\x1fb"),
        (0, 1),
        (0, "1"),
        (0, 1, 1),
        (0, 11),
        (0, None),
        (0, "None"),
        (0, True),
        (0, ""),
        (0, "", ""),
        (2**63 - 1,),
    ]
    assert len({derive_seed(*path) for path in paths}) == len(paths)


def test_another_process_draws_the_same():
    code = "from m2fedsa.seeding import derive_seed; print(derive_seed(0, 'sample', 4))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"})
    assert done.stdout == f"{derive_seed(0, 'sample', 4)}\n"


def test_generators_do_not_touch_global_randomness():
    before = torch.get_rng_state()
    first = torch.rand(3, generator=derive(0, "a"))
    assert torch.equal(torch.rand(3, generator=derive(0, "a")), first)
    assert not torch.equal(torch.rand(3, generator=derive(0, "b")), first)
    assert torch.equal(torch.get_rng_state(), before)
