"""Request lengths from published traces: as they are, sampled, scaled, or refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapool.errors import SpecError, TraceFileError
from fapool.spec import RangeWorkload, RunSpec, Static, TraceWorkload, Workload
from fapool.workload import draw, read_lengths, requests_of, sample

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
ROWS = [(4808, 10), (3180, 8), (110, 27), (7433, 14), (34, 12), (374, 0)]


@pytest.fixture(params=[".csv", ".jsonl"])
def trace(request, tmp_path) -> Path:
    """A few requests as each publisher writes them."""
    path = tmp_path / f"trace{request.param}"
    if path.suffix == ".csv":
        lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
        lines += [f"2023-11-16 18:17:0{i}.97,{c},{o}" for i, (c, o) in enumerate(ROWS)]
    else:
        keys = ("timestamp", "input_length", "output_length", "hash_ids")
        rows = [(i, c, o, [0, i]) for i, (c, o) in enumerate(ROWS)]
        lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_spec(workload) -> RunSpec:
    return RunSpec(model="tiny", plan=Static(), workload=workload)


def test_both_formats_are_read_as_published(trace):
    assert [tuple(row) for row in read_lengths(trace).itertuples(index=False)] == ROWS


@pytest.mark.parametrize(
    ("name", "rows", "longest"),
    [
        ("azure_llm_2023_code.csv", 8819, 7437),
        ("azure_llm_2023_conv.csv", 19366, 14050),
        ("mooncake_conversation.jsonl", 12031, 126195),
    ],
)
def test_real_traces_are_read_whole(name, rows, longest):
    if not (DATA / name).exists():
        pytest.skip("needs the published traces beside the repository")
    lengths = read_lengths(DATA / name)
    assert len(lengths) == rows
    assert lengths["context"].max() == longest
    assert (lengths["context"] >= 1).all()


def test_fixed_requests_are_equal_and_numbered():
    requests = requests_of(make_spec(Workload(batch=3, context=7, output=2)))
    assert [(r.id, r.context, r.output, r.cached) for r in requests] == [
        (id, 7, 2, 8) for id in range(3)
    ]


def test_a_sample_is_drawn_without_replacement_and_keeps_the_files_order(trace):
    spec = make_spec(TraceWorkload(path=trace, sample=len(ROWS)))
    found = [(r.context, r.output) for r in requests_of(spec)]
    assert found == [(context, max(1, output)) for context, output in ROWS]
    few = [
        (r.context, r.output) for r in requests_of(make_spec(TraceWorkload(path=trace, sample=3)))
    ]
    places = [found.index(each) for each in few]
    assert places == sorted(set(places))


def test_the_seed_alone_decides_the_sample(trace):
    def drawn(seed):
        return requests_of(make_spec(TraceWorkload(path=trace, sample=3, seed=seed)))

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1


def test_lengths_shrink_by_their_scales_but_never_to_nothing(trace):
    work = TraceWorkload(path=trace, sample=6, length_scale=0.01, output_scale=0.5, max_output=6)
    scaled = sample(read_lengths(trace), work)
    expected = [[max(1, round(c * 0.01)), min(6, max(1, round(o * 0.5)))] for c, o in ROWS]
    np.testing.assert_array_equal(scaled, expected)
    assert scaled[4, 0] == 1  # 34 tokens scaled to 0.34


@given(
    shortest=st.integers(1, 5000), width=st.integers(0, 5000), sample=st.integers(1, 300),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_lengths_over_a_range_are_balanced_whatever_the_seed(shortest, width, sample, seed):
    work = RangeWorkload(
        shortest=shortest, longest=shortest + width, sample=sample, output=2, seed=seed
    )
    requests = requests_of(make_spec(work))
    lengths = np.sort([request.context for request in requests])
    assert shortest <= lengths[0] <= lengths[-1] <= shortest + width
    # the i-th shortest lies in the i-th of equal parts
    parts = shortest + np.arange(sample + 1) * (width + 1) / sample
    assert (lengths >= np.floor(parts[:-1])).all()
    assert (lengths <= np.ceil(parts[1:])).all()
    assert {request.output for request in requests} == {2}


def test_a_range_shrinks_by_its_scale_and_its_seed_decides_the_order():
    fields = {"shortest": 512, "longest": 2047, "sample": 64, "output": 3}
    whole = draw(RangeWorkload(**fields))
    np.testing.assert_array_equal(
        draw(RangeWorkload(**fields, length_scale=1 / 16)), np.rint(whole / 16)
    )
    assert draw(RangeWorkload(**fields)).tolist() == whole.tolist()
    assert draw(RangeWorkload(**fields, seed=1)).tolist() != whole.tolist()
    assert np.diff(whole).min() < 0 < np.diff(whole).max()  # in no order


def test_a_sample_larger_than_the_trace_is_refused(trace):
    with pytest.raises(TraceFileError, match=r"workload\.sample = 7: the trace has 6 rows"):
        requests_of(make_spec(TraceWorkload(path=trace, sample=7)))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", None, "cannot be read"),
        ("a.txt", "x", r"give a \.csv \(Azure\) or \.jsonl"),
        ("a.csv", "", "cannot be read"),
        ("a.csv", "TIMESTAMP,ContextTokens\n1,2\n", "lacks GeneratedTokens; has TIMESTAMP"),
        ("a.jsonl", '{"input_length": 4}\n', "lacks output_length"),
        ("a.jsonl", "[1, 2]\n[3, 4]\n", "lacks input_length, output_length"),
        ("a.jsonl", "{not json\n", "cannot be read"),
        ("a.csv", "ContextTokens,GeneratedTokens\n5,1\n,2\n", "row 2 context = .*nan"),
        ("a.csv", "ContextTokens,GeneratedTokens\n5,NaN\n", "row 1 output = .*nan"),
        ("a.csv", "ContextTokens,GeneratedTokens\n0,5\n", "row 1 context = .*0.*from 1"),
        ("a.csv", "ContextTokens,GeneratedTokens\n4,5\n4,-5\n", "row 2 output = .*-5"),
        ("a.csv", "ContextTokens,GeneratedTokens\n4.5,5\n", r"row 1 context = 4\.5:"),
        ("a.csv", "ContextTokens,GeneratedTokens\nmany,5\n", "row 1 context = 'many'"),
        ("a.csv", "ContextTokens,GeneratedTokens\n10000001,5\n", "row 1 context"),
        ("a.csv", "ContextTokens,GeneratedTokens\n1e300,5\n", "row 1 context"),
        ("a.csv", "ContextTokens,GeneratedTokens\ninf,5\n", "row 1 context"),
        ("a.jsonl", '{"input_length": [4], "output_length": 1}\n', "row 1 context"),
        ("a.jsonl", '{"input_length": null, "output_length": 1}\n', "row 1 context"),
        ("a.jsonl", '{"input_length": true, "output_length": 1}\n', "row 1 context = True"),
        (
            "a.jsonl",
            '{"input_length": 5, "output_length": 1}\n{"input_length": true, "output_length": 1}\n',
            "row 2 context = True",
        ),
        ("a.csv", "ContextTokens,GeneratedTokens\nTrue,5\n", "row 1 context = True"),
    ],
)
def test_a_bad_trace_is_refused_with_the_row_to_mend(tmp_path, name, text, says):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(TraceFileError, match=says) as caught:
        requests_of(make_spec(TraceWorkload(path=path, sample=1)))
    assert isinstance(caught.value, SpecError | ValueError)


def test_binary_noise_and_folders_are_no_traces(tmp_path):
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)))
    (tmp_path / "folder.csv").mkdir()
    for name in ("noise.csv", "folder.csv"):
        with pytest.raises(TraceFileError):
            read_lengths(tmp_path / name)


def test_numbers_written_as_text_are_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"input_length": "12.0", "output_length": "3"}\n')
    assert read_lengths(path).to_numpy().tolist() == [[12, 3]]
