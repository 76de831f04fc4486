"""What notebook 01 says about exact attention, computed; numbers are those of cells and exercises."""

import math
import re

import pytest
import torch
from claims import Notebook

import multipole_lab as ml
from multipole_lab.measure import operations


@pytest.fixture(scope="module")
def book():
    return Notebook("01")


@pytest.fixture(scope="module")
def weights(book):
    """Causal weights of layer 15 over 2,048 tokens, [9, 2048, 2048]."""
    ran = book.cell("15")
    logits = ran.sample.scale * ran.q[0] @ ran.k[0].repeat_interleave(3, 0).mT
    return logits.masked_fill(torch.ones(2048, 2048).triu(1).bool(), -torch.inf).softmax(-1)


def test_equation_two_parts_merge_as_their_sums_add_up(book):
    book.says(r"(e\^\{\\ell\} o = e\^\{\\ell_1\} o_1 \+ e\^\{\\ell_2\} o_2)")
    random = torch.Generator().manual_seed(0)
    logits, v = torch.randn(9, generator=random).double(), torch.randn(9, 3, generator=random).double()
    one, two, all_ = (
        (x.exp() @ y, x.exp().sum()) for x, y in ((logits[:4], v[:4]), (logits[4:], v[4:]), (logits, v))
    )
    torch.testing.assert_close((one[0] + two[0]) / (one[1] + two[1]), all_[0] / all_[1])


def test_06_heads_share_keys_and_twelve_keys_hold_most(book):
    book.says(r"(Nine) query heads share three key heads, three each")
    assert book.cell("05").layer.q.shape[1] == 9 == 3 * book.cell("05").layer.k.shape[1]
    (figure,) = book.cell("09").figures
    heavy = book.cell("09").heavy
    assert f"hold {heavy.values.sum():.0%} of" in figure.layout.title.text.replace("<br>", " ")
    assert heavy.values.sum() > 0.8


def test_10_token_0_is_among_the_twelve_heaviest(book, weights):
    (share,) = book.says(
        r"Token 0 is among the twelve heaviest for (\d+%) of this layer's queries \(all nine heads, causal, 2,048"
    )
    heaviest = weights[:, 12:].topk(12).indices
    assert (heaviest == 0).any(-1).float().mean().item() == pytest.approx(share, abs=0.005)


def test_10_where_the_exponential_overflows(book):
    (limit,) = book.says(r"overflows \(becomes infinite\) in 32 bits from \$x \\approx (\d+)\$ on")
    largest = torch.finfo(torch.float32).max
    assert int(math.log(largest)) == limit
    assert torch.tensor(limit + 1).exp().isinf()
    assert not torch.tensor(limit).exp().isinf()
    printed = book.cell("11").printed
    assert re.search(r"naive: +True\n +maximum taken off: +False", printed)


def test_12_the_walk_over_tiles_gives_the_sum_at_once(book):
    book.says(r"keeps (three) things: the largest logit so far")
    assert book.cell("13").column(r"at once: (\S+)")[0] < 1e-5


def test_17_merging_loses_nothing_but_rounding(book):
    (power,) = book.says(
        r"Errors of about \$10\^\{-(\d+)\}\$ are rounding: 32-bit numbers carry seven digits"
    )
    errors = book.cell("16").column(r"squared error (\S+)")
    assert len(errors) == 2
    assert all(10 ** -(power + 1) < x < 10 ** -(power - 1) for x in errors)
    assert torch.finfo(torch.float32).eps == pytest.approx(1e-7, rel=0.3)


def test_18_operations_and_bytes(book):
    a_byte, tokens = book.says(r"that is \$N/8\$ products a byte: (\d+) at ([\d,]+) tokens")
    products = operations(ml.Exact(), int(tokens), head_size=64)
    assert products == 2 * tokens**2 * 64
    assert products / (4 * tokens * 64 * 4) == a_byte == tokens / 8
    causal = operations(ml.Exact(), int(tokens), causal=True, head_size=64)
    assert causal == pytest.approx(products / 2, rel=1e-3)
    sixteenth, kind = book.says(
        r"\(full attention; (causal) has half the products for the same bytes, \$N/(\d+)\$\)"
    )[::-1]
    assert kind == "causal"
    assert causal / (4 * tokens * 64 * 4) == pytest.approx(tokens / sixteenth, rel=1e-3)
    book.says(r"(a quarter of a product a byte), whatever \$N\$")
    assert operations(ml.Exact(), 1, 4096, head_size=64) / (2 * 4096 * 64 * 4) == 1 / 4


def test_20_this_computer_waits_for_bytes_with_one_query_and_for_products_with_many(book):
    book.says(r"(Exact attention of a long text is of the second kind)")
    (balance,) = book.cell("20").column(r"([\d.]+) products a byte")
    assert 1 / 4 < balance < 512


def test_solution_1_three_lines_are_merge(book):
    assert book.solution(1)[0].value.item() < 1e-12


def test_solution_2_averaging_is_wrong_but_for_equal_weights(book):
    (said,) = book.says(
        r"Over all heads of the layer the error is ([\d.]+)\. Right only where the two parts have the same mean"
    )
    ran = book.solution(2)[0]
    assert ran.value.item() == pytest.approx(said, abs=0.005)
    zero = torch.zeros_like(ran.q[:, :, :1])
    first, rest, all_ = (
        ml.Exact()(zero, ran.k[:, :, x], ran.v[:, :, x])
        for x in (slice(1000), slice(1000, None), slice(None))
    )
    torch.testing.assert_close((1000 * first + 1048 * rest) / 2048, all_)


def test_solution_3_the_sinks_share(book):
    low, high, least, most = book.says(
        r"from (\d+%) to (\d+%) in full attention\. .*?give it between (\d+%) and (\d+%):"
    )
    full, causal = (ran.value[0] for ran in book.solution(3))
    assert [x.item() for x in (full.min(), full.max())] == pytest.approx([low, high], abs=0.005)
    assert [x.item() for x in (causal.min(), causal.max())] == pytest.approx([least, most], abs=0.005)


def test_solution_4_a_million_tokens(book):
    factor, squared = book.says(r"is a factor of (\d+); squared, about ([\d,]+)\.")
    assert round(1e6 / 4096) == factor
    assert factor**2 == pytest.approx(squared, rel=0.01)
    book.says(r"A tenth of a second becomes (more than an hour and a half)")
    assert 1.5 < 0.1 * squared / 3600 < 2


def test_02_products_of_random_vectors_have_the_size_of_the_root_of_their_length(book):
    size, length = book.says(r"has a size of \$\\sqrt D\$: (\d+) for \$D = (\d+)\$")
    a, b = torch.randn(2, 50_000, int(length), generator=torch.Generator().manual_seed(0))
    assert (a * b).sum(1).std() == pytest.approx(size, rel=0.02)


def test_02_three_parts_merge_in_any_grouping_and_an_empty_one_adds_nothing(book):
    book.says(
        r"A part without keys has \$\\ell = (-\\infty)\$ and weighs \$e\^\{\\ell\} = 0\$: it adds nothing"
    )
    one, two, three = ((torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5)) for _ in range(3))
    left, right = ml.merge([ml.merge([one, two]), three]), ml.merge([one, ml.merge([two, three])])
    nothing = torch.zeros(1, 1, 5, 4), torch.full((1, 1, 5), -torch.inf)
    for a, b in zip(left + ml.merge([one, nothing]), right + one, strict=True):
        torch.testing.assert_close(a, b)


def test_10_where_the_exponential_overflows_in_16_bits(book):
    (limit,) = book.says(r"in the 16 bits of `float16` from ([\d.]+) on")
    assert limit == round(math.log(torch.finfo(torch.float16).max), 1)
    inside, beyond = torch.tensor([limit - 0.1, limit]).double().exp().half()
    assert inside.isfinite()
    assert beyond.isinf()


def test_18_what_written_logits_would_move(book):
    megabytes, tokens, together = book.says(
        r"moves \$N\^2\$ numbers each time, (\d+) MB a head at ([\d,]+) tokens, where .*? together are (\d+) MB"
    )
    assert 4 * tokens**2 / 1e6 == pytest.approx(megabytes, abs=0.5)
    assert 4 * 4 * tokens * 64 / 1e6 == pytest.approx(together, abs=0.5)


def test_12_a_backward_pass_needs_the_output_and_the_log_sum_exp_alone(book):
    book.says(r"keeps \$o\$ and (\$\\ell\$ alone) and makes each weight again")
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(n, 8, dtype=torch.double, generator=generator) for n in (1, 9, 9, 1))
    q.requires_grad_()
    s = 8**-0.5
    lse = (s * q @ k.T).logsumexp(1)
    out = (s * q @ k.T).softmax(1) @ v
    w = (s * q @ k.T - lse).exp()  # from the log-sum-exp
    (slope,) = torch.autograd.grad(lse.sum(), q, retain_graph=True)
    assert torch.allclose(slope, s * w @ k)
    (back,) = torch.autograd.grad((out * g).sum(), q)
    assert torch.allclose(back, s * (w * (g @ v.T - (g * out).sum())) @ k)


def test_10_bfloat16_has_the_range_of_32_bits(book):
    (kind,) = book.says(
        r"in 32 bits from \$x \\approx 88\$ on \(in `(bfloat16)`, which has the same range, too\)"
    )
    assert torch.tensor(88.0).double().exp().to(getattr(torch, kind)).isfinite()
    assert torch.tensor(89.0).double().exp().to(getattr(torch, kind)).isinf()


def test_12_the_sums_are_multiplied_when_a_larger_logit_turns_up(book):
    book.says(r"the two sums are multiplied by \$(e\^\{\\,\\text\{old\} - \\text\{new\}\})\$")
    logits, v = torch.tensor([0.5, -1.0, 4.0]).double(), torch.randn(3, 2).double()
    old, new = 0.5, 4.0
    factor = math.exp(old - new)
    total, mixed = (logits[:2] - old).exp().sum(), (logits[:2] - old).exp() @ v[:2]
    out = (factor * mixed + v[2]) / (factor * total + 1)
    torch.testing.assert_close(out, logits.softmax(0) @ v)


def test_25_keys_may_be_sorted_by_cluster(book):
    book.says(r"So (keys may be sorted) by cluster before; order comes in only by the causal mask and by")
    ran = book.cell("15")
    q, k, v = (x[:, :, :512] for x in (ran.q, ran.k, ran.v))
    order = ml.kmeans(k, clusters=8).labels[0, 0].argsort()
    full, sorted_ = ml.Exact()(q, k, v), ml.Exact()(q, k[:, :, order], v[:, :, order])
    torch.testing.assert_close(full, sorted_)
    masked = [ml.Exact()(q, *x, causal=True) for x in ((k, v), (k[:, :, order], v[:, :, order]))]
    assert ml.relative_squared_error(masked[1], masked[0]) > 0.01


def test_25_the_error_of_leaving_a_part_out(book):
    book.says(r"wrong by \$(o_1 - o = e\^\{\\ell_2 - \\ell\}\\,\(o_1 - o_2\))\$, for the two shares sum to 1")
    ran = book.cell("15")
    (o1, l1), (o2, l2) = ran.first, ran.rest
    o, lse = ml.merge([ran.first, ran.rest])
    torch.testing.assert_close(
        o1 - o, (l2 - lse).exp()[..., None] * (o1 - o2), rtol=0, atol=2e-5 * float(o.abs().max())
    )
    torch.testing.assert_close((l1 - lse).exp() + (l2 - lse).exp(), torch.ones_like(lse))


def test_25_an_empty_part_is_zero_and_not_nan(book):
    book.says(r"\$0\$ times (NaN) is NaN: so code writes 0 there\.")
    book.says(r"is NaN as well and needs a (guard); `ml\.merge` has it")
    some, zeros, never = torch.randn(1, 1, 5, 4), torch.zeros(1, 1, 5, 4), torch.full((1, 1, 5), -torch.inf)
    bad = (zeros / 0)[..., 0], never - never
    assert all(x.isnan().all() for x in (*bad, 0 * bad[0]))
    o, lse = ml.merge([(some, torch.randn(1, 1, 5)), (zeros, never)])
    assert torch.equal(o, some)
    o, lse = ml.merge([(zeros, never)] * 2)
    assert torch.equal(o, zeros)
    assert torch.equal(lse, never)


def test_10_the_same_vector_added_to_all_keys_or_values(book):
    book.says(r"\$(e\^\{-c\})\$ stands in the numerator and in the denominator, and cancels")
    book.says(r"moves by \$(s\\,q\\cdot u)\$, and \$\\ell\$ with them, the output stays\.")
    ran = book.cell("15")
    q, k, v = (x[:, :, :512] for x in (ran.q, ran.k, ran.v))
    u = torch.randn(64, generator=torch.Generator().manual_seed(0))
    o, lse = ml.Exact()(q, k, v, return_lse=True)
    keys, moved = ml.Exact()(q, k + u, v, return_lse=True)
    values = ml.Exact()(q, k, v + u)
    for a, b in ((keys, o), (moved - lse, ran.sample.scale * q @ u), (values - o, u.expand_as(o))):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_26_tiles_save_bytes_and_no_product(book):
    tokens, bits, megabytes = book.says(r"at ([\d,]+) tokens in (\d+) bits it is (\d+) MB\. Tiles save these")
    assert tokens**2 * bits / 8 / 1e6 == pytest.approx(megabytes, abs=0.5)
    book.says(r"(Cutting alone) saves bytes and no products")
    whole = operations(ml.Exact(), 512, 2048)
    assert sum(operations(ml.Exact(), 512, n) for n in (1000, 1048)) == whole
    book.says(r"It must give both, a (mean) \$o\$ and a weight")
    ran = book.cell("15")
    off = ml.merge([ran.first, (ran.rest[0], ran.rest[1] - 1)])[0]  # right means, a wrong weight
    assert ml.relative_squared_error(off, ran.whole) > 0.01
