"""Assignment 2: wrong answers as students write them, with a piece of the hint; and right ones written in other ways."""

WRONG = {
    "A2.1": {
        "largest product": ("largest product", "(centroids.square().sum(1) - 2 * x @ centroids.T).argmin(dim=1) => (x @ centroids.T).argmax(dim=1)"),
        "farthest": ("nearest", "argmin => argmax"),
        "other axis": ("which axis", "dim=1 => dim=0"),
        "sign": ("sign", "- 2 * x => + 2 * x"),
        "no two": ("the 2", "2 * x @ => x @"),
        "norm not squared": ("squared", "centroids.square().sum(1) => centroids.norm(dim=1)"),
        "cosine": ("direction", "(centroids.square().sum(1) - 2 * x @ centroids.T).argmin(dim=1) => (x @ (centroids / centroids.norm(dim=1)[:, None]).T).argmax(dim=1)"),
        "higher number wins": ("lower number", "(centroids.square().sum(1) - 2 * x @ centroids.T).argmin(dim=1) => "
            "len(centroids) - 1 - (centroids.square().sum(1) - 2 * x @ centroids.T).flip(1).argmin(dim=1)"),
        "distances": ("position of the smallest", "argmin(dim=1) => amin(dim=1)"),
        "sum of absolute differences": ("squares", "def assign(x, centroids):\n    return (x[:, None] - centroids).abs().sum(-1).argmin(1)\n"),
        "norm of x": ("|c|^2", "centroids.square().sum(1) => x.square().sum(1)[:, None]"),
    },
    "A2.2": {
        "NaN": ("Not NaN", "torch.where(counts > 0, sums / counts.clamp(min=1), centroids) => sums / counts"),
        "zero": ("old centroid", "torch.where(counts > 0, sums / counts.clamp(min=1), centroids) => sums / counts.clamp(min=1)"),
        "sums": ("not a sum", "sums / counts.clamp(min=1), centroids => sums, centroids"),
        "divided by all": ("not by all", "sums / counts.clamp(min=1) => sums / len(x)"),
        "one too many": ("count", "counts.clamp(min=1) => (counts + 1)"),
        "without the last": ("how many centroids", "len(centroids) => 0", "torch.zeros_like(centroids) => torch.zeros(int(labels.max()) + 1, x.shape[1])",
            "torch.where(counts > 0, sums / counts.clamp(min=1), centroids) => sums / counts.clamp(min=1)"),
        "old added": ("start from zero", "torch.zeros_like(centroids) => centroids.clone()"),
        "written into the input": ("clone|old centroid", "sums = torch.zeros_like(centroids) => centroids.zero_(); sums = torch.zeros_like(centroids)"),
        "divided by clusters": ("not by all", "sums / counts.clamp(min=1) => sums / len(centroids)"),
        "median": ("mean", "def update(x, labels, centroids):\n    new = centroids.clone()\n    for j in range(len(centroids)):\n"
            "        if (labels == j).any():\n            new[j] = x[labels == j].median(0).values\n    return new\n"),
    },
    "A2.3": {
        "stale labels": ("before the last update", "def lloyd(x, centroids, iterations):\n    labels = assign(x, centroids)\n    for _ in range(iterations):\n"
            "        labels = assign(x, centroids)\n        centroids = update(x, labels, centroids)\n    return labels, centroids\n"),
        "one round too many": ("too many", "range(iterations) => range(iterations + 1)"),
        "one round too few": ("too few", "range(iterations) => range(iterations - 1)"),
        "one round": ("only the first round", "range(iterations) => range(min(1, iterations))"),
        "no assignment between": ("assigns anew", "def lloyd(x, centroids, iterations):\n    labels = assign(x, centroids)\n    for _ in range(iterations):\n"
            "        centroids = update(x, labels, centroids)\n    return assign(x, centroids), centroids\n"),
        "start centroids again": ("round before", "def lloyd(x, centroids, iterations):\n    new = centroids\n    for _ in range(iterations):\n"
            "        new = update(x, assign(x, centroids), centroids)\n    return assign(x, new), new\n"),
        "other order": ("order", "return assign(x, centroids), centroids => return centroids, assign(x, centroids)"),
        "no round fails": ("no round", "def lloyd(x, centroids, iterations):\n    for _ in range(iterations):\n        labels = assign(x, centroids)\n"
            "        centroids = update(x, labels, centroids)\n        labels = assign(x, centroids)\n    return labels, centroids\n"),
        "labels of the start": ("before the last update", "def lloyd(x, centroids, iterations):\n    labels = assign(x, centroids)\n    for _ in range(iterations):\n"
            "        centroids = update(x, assign(x, centroids), centroids)\n    return labels, centroids\n"),
    },
    "A2.4": {
        "no limit": ("limit at all", "and free[cluster] > 0 => "),
        "keys in order": ("not the keys in their order", "def capped(x, centroids, limit):\n    d = torch.cdist(x, centroids)\n    free = [limit] * len(centroids)\n    labels = []\n"
            "    for i in range(len(x)):\n        for j in d[i].argsort().tolist():\n            if free[j]:\n                labels.append(j)\n                free[j] -= 1\n                break\n    return torch.tensor(labels)\n"),
        "limit + 1": ("stop at the limit", "> 0: => >= 0:"),
        "limit - 1": ("places", "free[cluster] > 0 => free[cluster] > 1"),
        "without |x|^2": ("|x|^2", "torch.cdist(x.double(), centroids.double()) => centroids.double().square().sum(1) - 2 * x.double() @ centroids.double().T"),
        "farthest first": ("smallest first", "argsort() => argsort(descending=True)"),
        "cluster by cluster": ("cluster after the other", "def capped(x, centroids, limit):\n    d = torch.cdist(x, centroids)\n    labels = torch.full((len(x),), -1)\n"
            "    for j in range(len(centroids)):\n        near = d[:, j].masked_fill(labels >= 0, float('inf')).argsort()[:limit]\n"
            "        near = near[labels[near] < 0]\n        labels[near] = j\n    return labels\n"),
        "keys by their nearest": ("all pairs", "def capped(x, centroids, limit):\n    d = torch.cdist(x, centroids)\n    free = [limit] * len(centroids)\n    labels = torch.full((len(x),), -1)\n"
            "    for i in d.amin(1).argsort().tolist():\n        for j in d[i].argsort().tolist():\n            if free[j]:\n                labels[i] = j\n                free[j] -= 1\n                break\n    return labels\n"),
        "overflow to the next number": ("nearest", "def capped(x, centroids, limit):\n    labels = torch.cdist(x, centroids).argmin(1).tolist()\n    free = [limit] * len(centroids)\n"
            "    for i, j in enumerate(labels):\n        while not free[j]:\n            j = (j + 1) % len(free)\n        labels[i] = j\n        free[j] -= 1\n    return torch.tensor(labels)\n"),
        "a key moves again": ("has no cluster yet", "if labels[key] < 0 and free => if free"),
        "divmod by N": ("divmod", "divmod(pair, C) => divmod(pair, N)"),
        "largest product": ("distance", "torch.cdist(x.double(), centroids.double()) => -(x @ centroids.T)"),
    },
    "A2.5": {
        "no mask": ("where is the mask", ".masked_fill(hidden, -torch.inf) => "),
        "last query": ("weights of the last query", "weights.mean(dim=0) => weights[-1]"),
        "divided by those who see": ("not by the number of queries that see", "weights.mean(dim=0) => weights.sum(dim=0) / torch.arange(len(k), 0, -1)"),
        "not divided": ("divided by N", "weights.mean(dim=0) => weights.sum(dim=0)"),
        "no scale": ("forget the scale", "scale * q @ k.T => q @ k.T"),
        "rows": ("1 / N", "weights.mean(dim=0) => weights.mean(dim=1)"),
        "does not see itself": ("sees itself", "triu(1) => triu()"),
        "mask the other way": ("past", "triu(1) => tril(-1)"),
        "most often the strongest": ("how often", "share = weights.mean(dim=0) => share = torch.bincount(weights.argmax(1), minlength=len(k)) / len(k)"),
        "one largest weight": ("not one weight", "weights.mean(dim=0) => weights.amax(dim=0)"),
        "logits": ("softmax", ".masked_fill(hidden, -torch.inf).softmax(dim=1) => .masked_fill(hidden, 0.0)"),
        "zeros for hidden": ("weight zero", "-torch.inf => 0.0"),
        "softmax of columns": ("1 / N", "softmax(dim=1) => softmax(dim=0)"),
        "other order": ("order", "return position, float(share[position]) => return float(share[position]), position"),
    },
    "A2.6": {
        "around zero": ("around their mean", "(x - x.mean(0)).square().sum() => x.square().sum()"),
        "closest": ("not the closest", "def enough(x, counts, share):\n    total = (x - x.mean(0)).square().sum()\n    best = []\n    for count in counts:\n"
            "        c = ml.kmeans(x[None, None], clusters=count, iterations=5, seed=0)\n        inside = (x - c.centroids[0, 0][c.labels[0, 0]]).square().sum()\n"
            "        best.append((abs(float(inside / total) - share), count))\n    return min(best)[1]\n"),
        "larger": ("at most", "inside <= share * total => inside >= share * total"),
        "not divided": ("spread of all keys", "inside <= share * total => inside <= share"),
        "last where none": ("None", "return None => return counts[-1]"),
        "zero where none": ("None", "return None => return 0"),
        "index": ("number of clusters", "return count => return counts.index(count)"),
        "root": ("squared", "inside <= share * total => (inside / total).sqrt() <= share"),
        "explained": ("inside", "inside <= share * total => 1 - inside / total <= share"),
        "mean over one": ("both", "inside = (x - clusters.centroids[0, 0][clusters.labels[0, 0]]).square().sum() => inside = (x - clusters.centroids[0, 0][clusters.labels[0, 0]]).square().mean()"),
    },
    "A2.8": {
        "far from the first": ("not from the first", "torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1)) => nearest.index_fill(0, torch.tensor(chosen), -1)"),
        "far from the last": ("not from the last", "torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1)) => (x - x[chosen[-1]]).square().sum(1)"),
        "maximum": ("minimum", "torch.minimum => torch.maximum"),
        "sum": ("not the sum", "torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1)) => nearest + (x - x[chosen[-1]]).square().sum(1)"),
        "one too many": ("C positions", "range(C - 1) => range(C)"),
        "without first": ("begins with", "chosen = [first]\n => chosen = []\n", "range(C - 1) => range(C)"),
        "from zero": ("begins with", "chosen = [first]\n => first = 0; chosen = [first]\n"),
        "nearest": ("farthest", "nearest.argmax() => nearest.argmin()"),
        "higher position": ("lower position", "int(nearest.argmax()) => len(x) - 1 - int(nearest.flip(0).argmax())"),
        "keys": ("positions", "return torch.tensor(chosen) => return x[torch.tensor(chosen)]"),
        "a list": ("torch.tensor", "return torch.tensor(chosen) => return chosen"),
    },
}

RIGHT = {
    "A2.1": {"cdist": "def assign(x, centroids):\n    return torch.stack([(x - c).pow(2).sum(1) for c in centroids], 1).argmin(1)\n"},
    "A2.2": {"loop": "def update(x, labels, centroids):\n    new = centroids.clone()\n    for j in range(len(new)):\n"
        "        if (labels == j).sum() > 0:\n            new[j] = x[labels == j].mean(0)\n    return new\n"},
    "A2.3": {"while": "def lloyd(x, centroids, iterations):\n    labels = assign(x, centroids)\n    while iterations > 0:\n"
        "        centroids = update(x, labels, centroids)\n        labels = assign(x, centroids)\n        iterations -= 1\n    return labels, centroids\n"},
    "A2.4": {"squared": "torch.cdist(x.double(), centroids.double()) => (x[:, None] - centroids).square().sum(-1)"},
    "A2.5": {"tuple of tensors": "return position, float(share[position]) => return share.argmax().item(), share.max().item()"},
    "A2.6": {"next": "if inside <= share * total: => if inside / total <= share:"},
    "A2.8": {"cdist": "(x - x[first]).square().sum(1) => torch.cdist(x, x[first : first + 1], compute_mode='donot_use_mm_for_euclid_dist')[:, 0] ** 2"},
}
