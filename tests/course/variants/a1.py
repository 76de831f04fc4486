"""Assignment 1: wrong answers as students write them, with a piece of the hint; and right ones written in other ways.

An edit reads ``old => new`` and is made in the master's solution; a text that begins with ``def`` replaces it.
"""

WRONG = {
    "A1.1": {
        "no maximum": ("largest logit", "logits - logits.amax(dim=1, keepdim=True) => logits"),
        "no scale": ("forget the scale", "scale * q @ k.T => q @ k.T"),
        "sqrt(D) on top": ("sqrt(D)", "scale * q @ k.T => scale * q @ k.T / math.sqrt(q.shape[1])"),
        "sqrt(D) instead": ("sqrt(D)", "scale * q @ k.T => q @ k.T / math.sqrt(q.shape[1])"),
        "sum of columns": ("each column", "grown.sum(dim=1, keepdim=True) => grown.sum(dim=0, keepdim=True)"),
        "softmax of columns": ("each column", "dim=1 => dim=0"),
        "maximum of columns": ("of each row", "logits.amax(dim=1, keepdim=True) => logits.amax(dim=0)"),
        "one maximum for all": ("of each row", "logits.amax(dim=1, keepdim=True) => logits.max()"),
        "not divided": ("divide by the sum", "return grown / grown.sum(dim=1, keepdim=True) => return grown"),
        "one sum for all": ("of each row", "grown.sum(dim=1, keepdim=True) => grown.sum()"),
        "divided by the scale": ("multiplies", "scale * q @ k.T => q @ k.T / scale"),
        "scale after the maximum": (
            "before you look",
            "scale * q @ k.T => q @ k.T",
            "torch.exp(logits - logits.amax(dim=1, keepdim=True)) => "
            "torch.exp(scale * (logits - logits.amax(dim=1, keepdim=True)))",
        ),
        "powers of two": ("exp, not 2 to the power", "torch.exp( => torch.exp2("),
        "no return": ("return", "return grown => grown"),
        "no transpose": (".T", "k.T => k"),
        "mean instead of the maximum": ("largest logit", "logits.amax( => logits.mean("),
        "logarithms": ("exp", "return grown / => return torch.log(grown) - torch.log(", "keepdim=True)\n => keepdim=True))\n"),
    },
    "A1.2": {
        "maximum not added back": ("added to lse again", "largest + torch.log(total) => torch.log(total)"),
        "maximum subtracted": ("added to lse again", "largest + torch.log(total) => torch.log(total) - largest"),
        "no maximum": ("largest logit", "logits - largest[:, None] => logits", "largest + torch => torch"),
        "log2": ("natural logarithm", "largest + torch.log(total) => (largest + torch.log(total)) / math.log(2)"),
        "no division": ("divide by the sum", "grown @ v / total[:, None] => grown @ v"),
        "no logarithm": ("logarithm", "largest + torch.log(total) => total"),
        "maximum for lse": ("not the largest", "largest + torch.log(total) => largest"),
        "mean in lse": ("not of a mean", "torch.log(total) => torch.log(total / len(k))"),
        "lse of the weights": (
            "before you divide",
            "largest + torch.log(total) => torch.log((grown / total[:, None]).sum(1))",
        ),
        "other order": ("order", "return grown @ v / total[:, None], largest + torch.log(total) => "
            "return largest + torch.log(total), grown @ v / total[:, None]"),
        "column lse": ("keepdim", "largest + torch.log(total) => (largest + torch.log(total))[:, None]"),
        "output only": ("first part alone", ", largest + torch.log(total) => "),
        "no scale": ("forget the scale", "scale * q @ k.T => q @ k.T"),
        "log of the sum divided": ("no factor", "largest + torch.log(total) => largest * torch.log(total)"),
    },
    "A1.3": {
        "aligned at the top": ("last positions", "torch.arange(Nk - Nq, Nk) => torch.arange(Nq)"),
        "sees not itself": ("sees itself", "> position => >= position"),
        "sees the next": ("does not see the next", "> position => > 1 + position"),
        "zeros": ("weight zero", "-torch.inf => 0.0"),
        "multiplied": ("weight zero", "(scale * q @ k.T).masked_fill(hidden, -torch.inf) => (scale * q @ k.T) * ~hidden"),
        "no mask": ("mask at all", ".masked_fill(hidden, -torch.inf) => "),
        "the past is hidden": ("past", "> position => < position"),
        "mask after": (
            "before you compute lse",
            ".masked_fill(hidden, -torch.inf) => ",
            "return grown @ v => return (grown * ~hidden) @ v / (grown * ~hidden).sum(1)[:, None], largest + torch.log(total) #",
        ),
        "not renormalised": (
            "before you divide",
            ".masked_fill(hidden, -torch.inf) => ",
            "return grown @ v => return (grown * ~hidden) @ v",
        ),
        "only a little smaller": ("weight zero", "-torch.inf => -10.0"),
        "no scale": ("forget the scale", "scale * q @ k.T => q @ k.T"),
        "maximum not added back": ("added to lse again", "largest + torch.log(total) => torch.log(total)"),
    },
    "A1.4": {
        "overflow": ("largest lse", "base = torch.where(largest == -torch.inf, torch.zeros_like(largest), largest) => base = 0.0"),
        "overflow and blind parts": (
            "largest lse",
            "def merge(parts):\n    total = sum(torch.exp(lse) for _, lse in parts)\n"
            "    out = sum(torch.exp(lse)[:, None] * out for out, lse in parts) / total[:, None]\n"
            "    return out, torch.log(total)\n",
        ),
        "NaN from blind parts": ("blind", "outs = torch.where(blind[..., None], torch.zeros_like(outs), outs) => pass"),
        "all blind": ("all parts blind", "torch.where(largest == -torch.inf, torch.zeros_like(largest), largest) => largest"),
        "all blind, out": ("all parts blind", "torch.where(total == 0, torch.ones_like(total), total) => total"),
        "plain mean": ("more weight", "out = (grown[..., None] * outs).sum(dim=0) / => out = outs.mean(0) #", "[\n        :, None\n    ] => "),
        "lse is the largest": ("not the largest", "base + torch.log(total) => lses.amax(0)"),
        "lse summed": ("sum of exponentials", "base + torch.log(total) => lses.sum(0)"),
        "base not added": ("added to lse again", "return out, base + torch.log(total) => return out, torch.log(total)"),
        "not divided": ("divide", "torch.where(total == 0, torch.ones_like(total), total) => torch.ones_like(total)"),
        "two parts only": ("any number", "outs = torch.stack([out for out, _ in parts]) => parts = parts[:2]; outs = torch.stack([out for out, _ in parts])"),
        "weighed by lse": ("exp(lse)", "(grown[..., None] * outs) => (lses[..., None] * outs)", "torch.where(total == 0, torch.ones_like(total), total) => lses.sum(0)"),
    },
    "A1.5": {
        "overflow": ("overflows", "def remove(whole, part):\n    (out, lse), (gone, gone_lse) = whole, part\n"
            "    a, b = torch.exp(lse)[:, None], torch.exp(gone_lse)[:, None]\n"
            "    return (a * out - b * gone) / (a - b), torch.log(a - b)[:, 0]\n"),
        "not divided": ("mean again", " / (1 - share)[:, None] => "),
        "divided by the share": ("mean again", "/ (1 - share) => / share"),
        "difference of lse": ("log(1 - share)", "lse + torch.log1p(-share) => lse - gone_lse"),
        "lse kept": ("lse becomes smaller", "lse + torch.log1p(-share) => lse"),
        "sign of log1p": ("log(1 - share)", "torch.log1p(-share) => torch.log1p(share)"),
        "without lse": ("lse itself", "lse + torch.log1p(-share) => torch.log1p(-share)"),
        "added": ("take", "def remove(whole, part):\n    return merge([whole, part])\n"),
        "share turned round": ("the other way", "gone_lse - lse => lse - gone_lse"),
        "outputs subtracted": ("share", "(out - share[:, None] * gone) => (out - gone)"),
    },
    "A1.6": {
        "nothing shrinks": ("has to shrink", "shrink * total => total", "shrink[:, None] * out => out"),
        "output does not shrink": ("output", "shrink[:, None] * out => out"),
        "sum does not shrink": ("sum", "shrink * total => total"),
        "shrinks the wrong way": ("exp(old - new)", "largest - higher => higher - largest"),
        "averaged": ("not equally", "def stream(q, blocks, scale):\n    parts = [attend(q, k, v, scale) for k, v in blocks]\n"
            "    return torch.stack([o for o, _ in parts]).mean(0), merge(parts)[1]\n"),
        "last block": ("last block", "def stream(q, blocks, scale):\n    for k, v in blocks:\n        out, lse = attend(q, k, v, scale)\n    return out, lse\n"),
        "first block": ("first block", "def stream(q, blocks, scale):\n    for k, v in blocks:\n        return attend(q, k, v, scale)\n"),
        "maximum from 0": ("starts at -inf", "torch.full((len(q),), -torch.inf) => torch.zeros(len(q))"),
        "no maximum": ("largest", "torch.maximum(largest, logits.amax(dim=1)) => torch.zeros(len(q))"),
        "not divided": ("divide", "out / total[:, None] => out"),
        "maximum not added back": ("added to lse again", "largest + torch.log(total) => torch.log(total)"),
    },
    "A1.8": {
        "no scale": ("chain rule", "scale * weights => weights"),
        "plain mean": ("not equally", "return scale * weights(q, k, scale) @ k => return scale * k.mean(0).expand_as(q)"),
        "weights without the scale": ("inside the weights", "weights(q, k, scale) => weights(q, k, 1.0)"),
        "scale squared": ("once", "scale * weights => scale**2 * weights"),
        "centred": ("not its distance", "scale) @ k => scale) @ k - scale * k.mean(0)"),
        "summed over queries": ("each query", "return scale * weights(q, k, scale) @ k => return (scale * weights(q, k, scale) @ k).sum(0)"),
    },
}

RIGHT = {
    "A1.1": {
        "by log-sum-exp": "def weights(q, k, scale):\n    x = (q @ k.T) * scale\n    x = x - x.max(1, keepdim=True).values\n"
        "    return torch.exp(x - torch.log(torch.exp(x).sum(1, keepdim=True)))\n",
        "einsum in float64": "def weights(q, k, scale):\n    x = torch.einsum('id,jd->ij', q.double(), k.double()) * scale\n"
        "    e = (x - x.amax(-1)[:, None]).exp()\n    return e / e.sum(-1)[:, None]\n",
        "row by row": "def weights(q, k, scale):\n    rows = []\n    for one in q:\n        x = scale * k @ one\n"
        "        e = torch.exp(x - x.max())\n        rows.append(e / e.sum())\n    return torch.stack(rows)\n",
    },
    "A1.2": {
        "by weights": "def attend(q, k, v, scale):\n    x = scale * q @ k.T\n    m = x.max(dim=1, keepdim=True)[0]\n"
        "    z = (x - m).exp().sum(1, keepdim=True)\n    return weights(q, k, scale) @ v, (m + z.log()).squeeze(1)\n",
        "a list": "return grown @ v / total[:, None], largest + torch.log(total) => return [grown @ v / total[:, None], largest + torch.log(total)]",
    },
    "A1.3": {
        "tril": "hidden = torch.arange(Nk)[None, :] > position[:, None] => hidden = torch.ones(Nq, Nk).tril(Nk - Nq) == 0",
        "a very small number": "-torch.inf => -1e30",
    },
    "A1.4": {
        "two at a time": "def merge(parts):\n    out, lse = parts[0]\n    out = torch.where((lse == -torch.inf)[:, None], 0 * torch.ones_like(out), out)\n"
        "    for o, l in parts[1:]:\n        m = torch.maximum(lse, l)\n        m = torch.where(m == -torch.inf, 0.0, m)\n"
        "        a, b = torch.exp(lse - m), torch.exp(l - m)\n        z = a + b\n"
        "        o = torch.nan_to_num(o) * (l > -torch.inf)[:, None]\n"
        "        out = (a[:, None] * out + b[:, None] * o) / torch.where(z == 0, 1.0, z)[:, None]\n        lse = m + torch.log(z)\n    return out, lse\n",
    },
    "A1.5": {"by log": "torch.log1p(-share) => torch.log(1 - share)"},
    "A1.6": {"by merging": "def stream(q, blocks, scale):\n    done = None\n    for k, v in blocks:\n        one = attend(q, k, v, scale)\n"
        "        done = one if done is None else merge([done, one])\n    return done\n"},
    "A1.8": {"transposed": "scale * weights(q, k, scale) @ k => (k.T @ weights(q, k, scale).T).T * scale"},
}
