"""A channel of one rank, which needs no process group: what is sent is what is heard."""


class Alone:
    """Stands for ``parallel.channel.Channel``."""

    rank, ranks = 0, 1

    def __init__(self, *_):
        pass

    def swap(self, kind, parts, shapes, like):
        return {s: parts[s] for s in shapes}

    def start(self, kind, parts, shapes, likes):
        return Heard({s: list(parts[s]) for s in shapes})


class Heard:
    """A message that is there already."""

    def __init__(self, parts):
        self.parts = parts

    def wait(self):
        return self.parts
