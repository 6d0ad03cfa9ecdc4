"""Exercises of notebook 09: read one word of a table in cores, mix the lessons, turn the gauge."""

from math import prod

import torch

from .base import Cost, Exercise, Gradient, Invariant, Mistake


def read_word(cores, word):
    """Row ``word`` of the table in a tensor-train matrix, without building the table."""
    digits = []
    for core in reversed(cores):  # the last digit runs fastest
        digits.insert(0, word % core.shape[1])
        word = word // core.shape[1]
    row = torch.ones(1, 1)
    for core, digit in zip(cores, digits, strict=True):
        row = torch.tensordot(row, core[:, digit], dims=1)  # (.., r) x (r, column mode, s)
        row = row.reshape(-1, core.shape[-1])
    return row.flatten()


def _first_digit_fastest(cores, word):
    digits = []
    for core in cores:
        digits.append(word % core.shape[1])
        word = word // core.shape[1]
    row = torch.ones(1, 1)
    for core, digit in zip(cores, digits, strict=True):
        row = torch.tensordot(row, core[:, digit], dims=1).reshape(-1, core.shape[-1])
    return row.flatten()


def _first_column_fastest(cores, word):
    modes = [core.shape[2] for core in cores]
    return read_word(cores, word).reshape(modes).permute(*reversed(range(len(modes)))).flatten()


def _builds_the_table(cores, word):
    full = torch.ones(1, 1, 1)
    for core in cores:  # (rows, columns, r) x (r, v, e, s) -> (rows v, columns e, s)
        full = torch.tensordot(full, core, dims=1).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    return full[word, :, 0]


def _tables(generator):
    shapes = (
        [(1, 4, 3, 5), (5, 6, 2, 1)],
        [(1, 5, 2, 4), (4, 3, 4, 3), (3, 4, 3, 1)],
        [(1, 3, 2, 2), (2, 2, 3, 4), (4, 4, 2, 3), (3, 5, 2, 1)],
    )
    for modes, words in zip(shapes, ((0, 7, 23), (1, 31, 59), (6, 77)), strict=True):
        cores = [torch.randn(shape, generator=generator) for shape in modes]
        yield from ((cores, word) for word in words)


def lessons_loss(distances, task, stage):
    """The loss of a stage: D_0, the layers that count, and in the last stage the task."""
    layers = len(distances) - 1
    counted = distances[1 : 1 + min(stage, layers)]
    loss = distances[0] + sum(counted) / stage
    return loss + task if stage == layers + 1 else loss


def _only_the_new_layer(distances, task, stage):
    layers = len(distances) - 1
    loss = distances[0] + distances[min(stage, layers)]
    return loss + task if stage == layers + 1 else loss


def _divides_by_the_layers(distances, task, stage):
    layers = len(distances) - 1
    loss = distances[0] + sum(distances[1 : 1 + min(stage, layers)]) / min(stage, layers)
    return loss + task if stage == layers + 1 else loss


def _never_divides(distances, task, stage):
    layers = len(distances) - 1
    loss = distances[0] + sum(distances[1 : 1 + min(stage, layers)])
    return loss + task if stage == layers + 1 else loss


def _task_from_the_start(distances, task, stage):
    layers = len(distances) - 1
    return distances[0] + sum(distances[1 : 1 + min(stage, layers)]) / stage + task


def _embeddings_forgotten(distances, task, stage):
    return lessons_loss(distances, task, stage) - distances[0]


def _stages(generator):
    for layers in (2, 3, 6):
        distances = torch.rand(layers + 1, generator=generator) + 0.1
        task = torch.rand((), generator=generator)
        yield from ((distances, task, stage) for stage in range(1, layers + 2))


def turn(cores, turns):
    """The train with turns[k] between core k and core k + 1: other cores, the same tensor."""
    turned = list(cores)
    for k, Q in enumerate(turns):
        turned[k] = turned[k] @ Q  # the right axis of the left core
        turned[k + 1] = torch.tensordot(Q.T, turned[k + 1], dims=1)  # the left axis of the next
    return turned


def _never_turned_back(cores, turns):
    turned = list(cores)
    for k, Q in enumerate(turns):
        turned[k] = turned[k] @ Q
        turned[k + 1] = torch.tensordot(Q, turned[k + 1], dims=1)
    return turned


def _from_the_old_core(cores, turns):
    turned = list(cores)
    for k, Q in enumerate(turns):
        turned[k] = cores[k] @ Q
        turned[k + 1] = torch.tensordot(Q.T, cores[k + 1], dims=1)
    return turned


def _the_other_way_round(cores, turns):
    return turn(cores, [Q.T for Q in turns])


def _left_cores_alone(cores, turns):
    return [core @ Q for core, Q in zip(cores, turns, strict=False)] + [cores[-1]]


def _spelled(cores):
    full = cores[0]
    for core in cores[1:]:
        full = torch.tensordot(full, core, dims=1)
    return full


def _trains(generator):
    shapes = (
        [(1, 4, 3), (3, 5, 1)],
        [(1, 3, 4), (4, 5, 6), (6, 4, 1)],
        [(1, 3, 3), (3, 4, 6), (6, 2, 5), (5, 4, 4), (4, 3, 1)],
    )
    for modes in shapes:
        cores = [torch.randn(shape, generator=generator) for shape in modes]
        squares = [torch.randn(*[shape[2]] * 2, generator=generator) for shape in modes[:-1]]
        yield cores, [torch.linalg.qr(square)[0] for square in squares]


EXERCISES = (
    # Passes, too: row as a box that is flattened at the end only; torch.ones(1) to begin with; zip
    # without strict.
    Exercise(
        id="09.1", title="read one word",
        difficulty="hard", minutes=15, answer=read_word, cases=_tables,
        checks=(
            Invariant(
                "a row has as many numbers as the column modes multiply to",
                lambda row, cores, word: row.numel() == prod(core.shape[2] for core in cores),
            ),
            Cost("right, but it multiplies {ratio} times as much as needed: slice the cores first"),
        ),
        mistakes=(
            Mistake("the digits are in the wrong order: the last one runs fastest (i = 32 i1 + i2)",
                    _first_digit_fastest),
            Mistake("the numbers within the row are shuffled: the last column mode runs fastest",
                    _first_column_fastest),
            Mistake("right, but it builds the whole table to read one row: slice the cores first",
                    _builds_the_table),
        ),
        hints=(
            "Find the digits from the last core to the first: word % v, then word // v.",
            "core[:, digit] has the shape (r, e, s). Carry a matrix of (columns so far, r) along.",
        ),
    ),
    # Passes, too: stage for the min of both: a slice ends where its list does.
    Exercise(
        id="09.2", title="mix the lessons",
        difficulty="medium", minutes=10, answer=lessons_loss, cases=_stages,
        checks=(Gradient(),),
        mistakes=(
            Mistake("a stage keeps all the layers before it, yours looks at the newest alone",
                    _only_the_new_layer),
            Mistake("the divisor is the stage itself, also in the last one, where it is layers + 1",
                    _divides_by_the_layers),
            Mistake("the layers' sum is divided by the stage s", _never_divides),
            Mistake("the task joins in the last stage only, s = layers + 1", _task_from_the_start),
            Mistake("D_0, the embeddings' distance, belongs to every stage", _embeddings_forgotten),
        ),
        hints=(
            "distances[0] is D_0. Which slice of distances holds the layers of stage s?",
            "distances[1 : 1 + min(stage, layers)], summed, divided by stage.",
        ),
    ),
    # Passes, too: cores[k + 1] on the right, which no joint has changed yet.
    Exercise(
        id="09.3", title="turn the gauge",
        difficulty="medium", minutes=12, answer=turn, cases=_trains,
        checks=(
            Invariant(
                "the cores spell another tensor than before: what turns left must be turned back",
                lambda turned, cores, turns: torch.allclose(
                    _spelled(turned), _spelled(cores), rtol=1e-3, atol=1e-3
                ),
            ),
        ),
        mistakes=(
            Mistake("the right core is turned by Q as well: it takes the transpose, Q Q^T is 1",
                    _never_turned_back),
            Mistake("an inner core has two joints: go on with what the joint before it has made",
                    _from_the_old_core),
            Mistake("the same tensor, but Q stands on the left core and its transpose on the right",
                    _the_other_way_round),
            Mistake("the left cores are turned, and nobody turns back on the right",
                    _left_cores_alone),
        ),
        hints=(
            "Go from joint to joint with a list of new cores; each joint changes two of them.",
            "new[k] @ Q turns the last axis, torch.tensordot(Q.T, new[k + 1], dims=1) the first.",
        ),
    ),
)  # fmt: skip
