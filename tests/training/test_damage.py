"""Damaged and hostile checkpoints: each is one CheckpointError, or is as good as an honest one."""

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load as read_tensors
from safetensors.torch import save as serialize
from torch import Tensor

from charrnn.config import Config, load_config
from charrnn.errors import CheckpointError, ConfigError, TrainingError
from charrnn.model.engines import ENGINES
from charrnn.text.dataset import Dataset, load_dataset
from charrnn.text.minibatches import Position
from charrnn.training import checkpoint, loop
from charrnn.training.divergence import Watch
from charrnn.training.progress import PlacementRecord, PositionRecord, TallyRecord, WatchRecord
from charrnn.training.session import Tally
from tests.conftest import SMALL


class Victim:
    """An honest checkpoint in pieces, and what is needed to go on from it."""

    def __init__(self, folder: Path) -> None:
        text = folder / "text.txt"
        text.write_text("Zwölf Boxkämpfer jagen Viktor.\n" * 20, encoding="utf-8")
        small = {**SMALL, "model.hidden_size": 3, "model.cell": "gru", "corpus.source": str(text), "training.keep": 2}
        self.config: Config = load_config(flags=small)
        self.dataset: Dataset = load_dataset(self.config.corpus)
        session = loop.begin(self.config, self.dataset)
        session.step(0.5)
        session.report()
        session.step(0.5)
        session.rank(2.0)
        self.placement = session.placement
        self.path = folder / "a.safetensors"
        checkpoint.save(self.path, session.full_checkpoint({"metrics.jsonl": 10}))
        self.content = self.path.read_bytes()
        with safe_open(self.path, framework="pt") as file:
            self.metadata = file.metadata()
        self.header: dict[str, Any] = json.loads(self.metadata["charrnn"])
        self.tensors = read_tensors(self.content)

    def signed(self, header: str, tensors: dict[str, Tensor]) -> bytes:
        """A file whose checksums are right, whatever is in it."""
        training = {name: tensor for name, tensor in tensors.items() if name.startswith(checkpoint.TRAINING)}
        weights = {name: tensor for name, tensor in tensors.items() if name not in training}
        first = checkpoint._checksum(header, weights)
        metadata = {"charrnn": header, "sha256": first, "sha256_training": checkpoint._checksum(first, training)}
        return serialize(tensors, metadata=metadata)

    def accepts(self, content: bytes) -> bool:
        """Whether a file is taken, and then trains; False for a CheckpointError. Anything else fails the test."""
        self.path.write_bytes(content)
        assert checkpoint.step_of(self.path) is None or isinstance(checkpoint.step_of(self.path), int)
        try:
            checkpoint.load(self.path).network()
            stored = checkpoint.load(self.path, with_training=True)
            try:
                session = loop.begin(stored.config, self.dataset, stored, self.placement)
            except ConfigError as error:  # a device that is not here is the user's to mend
                assert "not to be had here" in str(error)  # noqa: PT017
                return False
            session.restore(stored)
        except CheckpointError as error:
            assert 0 < len(str(error)) < 1500  # noqa: PT017
            return False
        try:
            session.step(0.5)
            session.full_checkpoint({})
        except TrainingError:
            pass
        return True


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(tmp_path_factory.mktemp("victim"))


def test_the_honest_file_is_taken_whole_and_in_pieces(victim):
    assert victim.accepts(victim.content)
    assert victim.accepts(victim.signed(json.dumps(victim.header), victim.tensors))


# ---- bytes


def flip(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def flip_in_the_header(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(8 + int.from_bytes(content[:8], "little"))] ^= 1 << chance.randrange(8)


def truncate(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def extend(content: bytearray, chance: random.Random) -> None:
    content += chance.randbytes(chance.randint(1, 50))


def overwrite(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    content[start : start + chance.randint(1, 200)] = chance.randbytes(chance.randint(1, 200))


def zero(content: bytearray, chance: random.Random) -> None:
    """As a file system leaves a page that never reached the disk."""
    start = chance.randrange(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))


def lie_about_the_length(content: bytearray, chance: random.Random) -> None:
    content[:8] = chance.randrange(2 ** chance.randint(1, 64)).to_bytes(8, "little")


def edit_a_number(content: bytearray, chance: random.Random) -> None:
    """An offset, shape or figure of the header becomes another."""
    digits = [i for i in range(8, 8 + int.from_bytes(content[:8], "little")) if 48 <= content[i] <= 57]
    content[chance.choice(digits)] = chance.choice(b"0123456789")


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    *(flip, flip_in_the_header, truncate, extend, overwrite, zero, lie_about_the_length, edit_a_number)
]


def mutate_bytes(victim: Victim, cases: int, seed: int) -> None:
    chance = random.Random(seed)
    for case in range(cases):
        content = bytearray(victim.content)
        mutation = MUTATIONS[case % len(MUTATIONS)]
        mutation(content, chance)
        if content != victim.content:
            assert not victim.accepts(bytes(content)), (mutation.__name__, seed, case)


def test_bytes_changed_anywhere_are_noticed(victim):
    mutate_bytes(victim, 800, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_bytes_changed_anywhere_are_noticed_in_many_cases(victim, seed):
    mutate_bytes(victim, 10_000, seed)


@pytest.mark.slow
def test_a_flipped_bit_in_any_byte_is_noticed(victim):
    for position in range(len(victim.content)):
        content = bytearray(victim.content)
        content[position] ^= 1 << position % 8
        assert not victim.accepts(bytes(content)), position


def test_a_flipped_bit_of_the_training_state_does_not_keep_the_model_from_sampling(victim):
    offsets = json.loads(victim.content[8 : 8 + int.from_bytes(victim.content[:8], "little")])
    start = 8 + int.from_bytes(victim.content[:8], "little") + offsets["training/random/cpu"]["data_offsets"][0]
    content = bytearray(victim.content)
    content[start] ^= 1
    victim.path.write_bytes(content)
    assert checkpoint.load(victim.path).network()
    with pytest.raises(CheckpointError, match=r"its content does not fit its checksum"):
        checkpoint.load(victim.path, with_training=True)


def test_without_its_checksums_only_a_file_of_format_1_is_read(victim):
    header = {**victim.header, "format": 1}
    old = serialize(victim.tensors, metadata={"charrnn": json.dumps(header)})
    assert victim.accepts(old)
    assert not victim.accepts(serialize(victim.tensors, metadata={"charrnn": json.dumps(victim.header)}))


# ---- content, under checksums that are right

HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, -(10**400)]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["../../etc/passwd", "\x00", "\ud800", "a" * 100_000, "cuda:99", "load", "__class__", "1e999"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.floats() | st.text(max_size=3), max_size=3),
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested JSON."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*above, key)
        yield from places(child, (*above, key))


def put(header: dict[str, Any], place: tuple[Any, ...], value: object, how: str) -> None:
    holder: Any = header
    for key in place[:-1]:
        holder = holder[key]
    if how == "replace":
        holder[place[-1]] = value
    elif how == "delete":
        del holder[place[-1]]
    elif isinstance(holder, dict):
        holder[str(value)[:1000]] = holder.pop(place[-1])


DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]


def spoilt(tensor: Tensor, how: str, number: int) -> Tensor:
    if how == "dtype":
        return tensor.to(DTYPES[number % len(DTYPES)])
    if how == "shape":
        return tensor.reshape([tensor.numel(), *[1] * (number % 3 + 1)][:: 1 if number % 2 else -1])
    if how == "size":
        return torch.zeros((number % 5, *(min(size, 9) for size in tensor.shape[1:])), dtype=tensor.dtype)
    if how == "empty":
        return torch.zeros((0, 2**40), dtype=tensor.dtype)
    if how == "bits" and tensor.numel():
        flat = tensor.clone().reshape(-1)
        view = flat.view(torch.uint8)
        view[number % len(view) :] = number % 256
        return flat.reshape(tensor.shape)
    value = [float("nan"), float("inf"), -1.0, 1e38][number % 4]
    return torch.full_like(tensor, value) if tensor.is_floating_point() else torch.full_like(tensor, number % 256)


@st.composite
def counterfeits(draw: Any, victim: Victim) -> bytes:
    header, tensors = copy.deepcopy(victim.header), dict(victim.tensors)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            place = draw(st.sampled_from(list(places(header)) or [("format",)]))
            put(header, place, draw(HOSTILE), draw(st.sampled_from(["replace", "replace", "delete", "rename"])))
            continue
        name = draw(st.sampled_from(sorted(tensors)))
        how = draw(st.sampled_from(["dtype", "shape", "size", "empty", "bits", "value", "delete", "rename"]))
        tensor = tensors.pop(name)
        if how == "rename":
            tensors[draw(st.sampled_from(["x", "../x", "training/", "training/optimizer/a", "training/state/9"]))] = (
                tensor
            )
        elif how != "delete":
            honest = victim.tensors.get(name, tensor)  # not one that is spoilt already, of who knows what type and size
            tensors[name] = spoilt(honest, how, draw(st.integers(0, 1000)))
    tensors = tensors or {"x": torch.zeros(1)}
    return victim.signed(json.dumps(header), tensors)


def counterfeit(victim: Victim, cases: int) -> None:
    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(counterfeits(victim))
    def check(content: bytes) -> None:
        victim.accepts(content)

    state = torch.get_rng_state()
    check()
    torch.set_rng_state(state)


def test_hostile_content_under_right_checksums_is_refused_or_harmless(victim):
    counterfeit(victim, 250)


@pytest.mark.slow
def test_hostile_content_under_right_checksums_is_refused_or_harmless_in_many_cases(victim):
    counterfeit(victim, 10_000)


def changed(victim: Victim, *place: Any, value: object) -> str:
    header = copy.deepcopy(victim.header)
    put(header, place, value, "replace")
    return json.dumps(header)


BOMBS: dict[str, Callable[[Victim], str]] = {
    "a network larger than any machine": lambda v: changed(
        v, "config", "model", value={"cell": "lstm", "hidden_size": 65536, "num_layers": 64}
    ),
    "lists in lists": lambda v: changed(v, "metrics", value=0).replace('"metrics": 0', '"metrics": ' + "[" * 100_000),
    "a few thousand lists in lists": lambda v: changed(v, "metrics", value=0).replace(
        '"metrics": 0', '"metrics": ' + "[" * 3000 + "]" * 3000
    ),
    "a configuration of lists in lists": lambda v: changed(v, "config", value=0).replace(
        '"config": 0', '"config": ' + "[" * 900 + "]" * 900
    ),
    "a deep value in the configuration": lambda v: changed(v, "config", "model", "cell", value="@").replace(
        '"@"', "[" * 900 + "]" * 900
    ),
    "millions of empty lists": lambda v: changed(v, "metrics", value={"a": "@"}).replace(
        '"@"', "[" + "[]," * 4_000_000 + "[]]"
    ),
    "a text of twenty megabytes": lambda v: changed(v, "metrics", value={"a": "a" * 20_000_000}),
    "a hundred thousand unknown keys": lambda v: changed(
        v, "config", "model", value={f"key{n}": n for n in range(100_000)}
    ),
    "a number of a million digits": lambda v: changed(v, "progress", "step", value="@").replace('"@"', "9" * 10**6),
    "not a number": lambda v: changed(v, "metrics", value={"a": float("nan")}),
    "infinity by another name": lambda v: changed(v, "metrics", value={"a": "@"}).replace('"@"', "1e999"),
    "a vocabulary with duplicates": lambda v: changed(v, "vocabulary", "characters", value="aab"),
    "a vocabulary of a million characters": lambda v: changed(
        v, "vocabulary", "characters", value="".join(map(chr, range(1, 0x110000)))
    ),
    "a step before the first": lambda v: changed(v, "progress", "step", value=-1),
    "a window beyond the epoch": lambda v: changed(v, "progress", "position", "index", value=10**6),
    "an engine that is a function of torch": lambda v: changed(v, "progress", "placement", "dtype", value="load"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_soon_and_in_little_memory(bomb, victim):
    content = victim.signed(BOMBS[bomb](victim), victim.tensors)
    before, started = peak_memory(reset=True), time.process_time()
    assert not victim.accepts(content)
    assert peak_memory() - before < 40 * len(content) + 100e6
    assert time.process_time() - started < 5


def peak_memory(reset: bool = False) -> int:
    """The most bytes that this process has held, since the last reset; Linux only, elsewhere 0."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pytest.skip("this system does not let a process count its memory anew")
    return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


def test_tensors_that_training_needs_are_named_when_they_are_missing(victim):
    for name in victim.tensors:
        tensors = {other: tensor for other, tensor in victim.tensors.items() if other != name}
        victim.path.write_bytes(victim.signed(json.dumps(victim.header), tensors))
        stored = checkpoint.load(victim.path, with_training=True)
        with pytest.raises(
            CheckpointError, match=rf"{name.removeprefix('training/')}(: expected .* nothing| is missing)"
        ):
            loop.begin(stored.config, victim.dataset, stored, victim.placement).restore(stored)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_read_nor_written(value, victim):
    weights = {
        **victim.tensors,
        "readout.bias": victim.tensors["readout.bias"].clone().index_fill(0, torch.tensor(1), value),
    }
    victim.path.write_bytes(victim.signed(json.dumps(victim.header), weights))
    stored = checkpoint.load(victim.path)
    with pytest.raises(CheckpointError, match=r"readout.bias holds what is no finite number"):
        stored.network()
    victim.path.write_bytes(victim.content)
    with pytest.raises(CheckpointError, match=r"not written: .* readout.bias holds what is no finite number"):
        checkpoint.save(victim.path, stored)
    assert victim.path.read_bytes() == victim.content


def test_a_checkpoint_has_room_for_all_that_a_session_counts():
    assert set(TallyRecord.model_fields) == {field.name for field in fields(Tally)}
    assert set(PositionRecord.model_fields) == {field.name for field in fields(Position)}
    assert set(WatchRecord.model_fields) == {field.name for field in fields(Watch)}


def test_every_engine_can_be_named_in_a_checkpoint():
    for engine in ENGINES:
        assert PlacementRecord(device="cpu", engine=engine, dtype="float32").engine == engine
