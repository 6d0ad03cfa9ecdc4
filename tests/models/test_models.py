"""The translation Transformer: against torch's, word by word against all at once, beam search."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tqlearn.models import Transformer, beam_search
from tqlearn.models.pieces import Norm, Softmax
from tqlearn.models.search import length_penalty
from tqlearn.quantizers.named_points import Point, Positions

SMALL = {"vocabulary": 23, "width": 16, "ffn": 24, "heads": 4, "layers": 2, "length": 40}
WORDS = {"queries": "query", "keys": "key"}


def model(**changes):
    torch.manual_seed(0)
    built = Transformer(**SMALL | changes)
    for parameter in built.parameters():  # biases and gammas too, or they would test nothing
        nn.init.normal_(parameter, std=0.3)
    return built.eval()


def batch():
    source = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 0, 0]])
    labels = torch.tensor([[11, 12, 2], [13, 2, -100]])
    return source, source != 0, labels


def copy_attention(theirs, ours):
    parts = [ours.query, ours.key, ours.value]
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def copy_norm(theirs, ours):
    theirs.weight.data, theirs.bias.data = ours.gamma.weight.detach(), ours.bias.detach()


def copy_layer(theirs, ours):
    copy_attention(theirs.self_attn, ours.attention)
    copy_norm(theirs.norm1, ours.norm_attention)
    theirs.linear1.load_state_dict(ours.feed_forward.up.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.down.state_dict())
    if hasattr(ours, "cross"):
        copy_attention(theirs.multihead_attn, ours.cross)
        copy_norm(theirs.norm2, ours.norm_cross)
        copy_norm(theirs.norm3, ours.norm_feed_forward)
    else:
        copy_norm(theirs.norm2, ours.norm_feed_forward)


def torchs(ours):
    """torch's own Transformer with our weights; its extra norms at the two ends taken out."""
    theirs = nn.Transformer(16, 4, 2, 2, 24, dropout=0.1, batch_first=True).eval()
    theirs.encoder.norm = theirs.decoder.norm = None
    for side, mine in ((theirs.encoder, ours.encoder), (theirs.decoder, ours.decoder)):
        for layer, copy in zip(side.layers, mine["layers"], strict=True):
            copy_layer(layer, copy)
    return theirs


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
def test_equals_torchs_transformer():
    ours = model()
    source, real, labels = batch()
    shifted = torch.tensor([[1, 11, 12], [1, 13, 2]])
    table = ours.embedding.weight
    embed = [4 * table[ids] + ours.positions(0, ids.shape[1]) for ids in (source, shifted)]
    causal = nn.Transformer.generate_square_subsequent_mask(3).isinf()
    with torch.no_grad():
        out = torchs(ours)(
            *embed, tgt_mask=causal, src_key_padding_mask=~real, memory_key_padding_mask=~real
        )
        logits = ours(source, real, labels)["logits"]
    kept = labels != -100
    assert_close(logits[kept], (out @ table.T)[kept])
    loss = F.cross_entropy(logits[kept], labels[kept])
    assert_close(ours(source, real, labels)["loss"], loss)


def test_training_loss_is_smoothed_and_evaluation_is_not():
    ours = model(dropout=0.0)
    source, real, labels = batch()
    plain = ours(source, real, labels)
    kept = labels != -100
    expected = F.cross_entropy(plain["logits"][kept], labels[kept], label_smoothing=0.1)
    assert_close(ours.train()(source, real, labels)["loss"], expected)
    assert expected > plain["loss"]


def test_padding_has_no_effect():
    ours = model()
    source, real, labels = batch()
    other = source.masked_fill(~real, 17)
    kept = labels != -100
    one, two = (ours(ids, real, labels)["logits"][kept] for ids in (source, other))
    assert_close(one, two)
    assert_close(ours(source, None, labels)["logits"], ours(source, real, labels)["logits"])


def test_word_by_word_equals_all_at_once():
    ours = model()
    source, real, labels = batch()
    with torch.no_grad():
        whole = ours(source, real, labels)["logits"]
        state, found = ours.start(source, real), []
        for words in torch.tensor([[1, 1], [11, 13], [12, 2]]):
            logits, state = ours.step(words, state)
            found.append(logits)
    kept = labels != -100
    assert_close(torch.stack(found, 1)[kept], whole[kept])


def log_probability(ours, source, words):
    labels = torch.tensor([words])
    with torch.no_grad():
        logits = ours(source, None, labels)["logits"].log_softmax(-1)
    return logits.gather(2, labels[:, :, None]).sum().item()


@pytest.mark.slow
def test_wide_beam_finds_the_best_of_all():
    """Against a list of every sentence of up to three words and an end."""
    ours, alpha = model(vocabulary=8), 0.6
    source = torch.tensor([[5, 3, 7, 2]])
    words = [w for w in range(8) if w != 2]
    every = [(*body, 2) for size in range(4) for body in itertools.product(words, repeat=size)]
    scores = {s: log_probability(ours, source, s) / length_penalty(len(s), alpha) for s in every}
    best = max(scores, key=scores.get)
    wide = ours  # 4 beams of 8 words see nearly everything; all but a few prefixes are hopeless
    found = beam_search(wide, source, beams=4, alpha=alpha, limit=4)[0]
    assert (*found, 2) == tuple(w for w in best if w != 0)


def test_beams_do_not_mix_rows_and_one_beam_is_greedy():
    ours = model()
    source, real, _ = batch()
    together = beam_search(ours, source, real, limit=12)
    assert together[1] == beam_search(ours, source[1:, :3], limit=12)[0]
    state, word, greedy = ours.start(source[:1]), torch.tensor([1]), []
    with torch.no_grad():
        while len(greedy) < 12 and word.item() != 2:
            logits, state = ours.step(word, state)
            word = logits.argmax(-1)
            greedy.append(word.item())
    found = beam_search(ours, source[:1], beams=1, limit=12)[0]
    assert found == [w for w in greedy if w not in (0, 2)]


@pytest.mark.slow
def test_learns_to_copy():
    torch.manual_seed(0)
    ours = Transformer(**SMALL | {"dropout": 0.0, "width": 32, "ffn": 64, "layers": 1})
    optimizer = torch.optim.Adam(ours.parameters(), 3e-3)
    source = torch.cat([torch.randint(3, 12, (64, 4)), torch.full((64, 1), 2)], 1)
    for _ in range(150):
        optimizer.zero_grad()
        ours(source, labels=source)["loss"].backward()
        optimizer.step()
    found = beam_search(ours, source[:16])
    assert sum(a == b for a, b in zip(found, source[:16, :4].tolist(), strict=True)) >= 14
    assert ours.training


def test_pieces_equal_the_whole():
    x, scores = torch.randn(2, 3, 8), torch.randn(2, 4, 3, 5)
    allowed = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()[:, None, None]
    norm = Norm(8)
    nn.init.normal_(norm.gamma.weight)
    nn.init.normal_(norm.bias)
    assert_close(norm(x), F.layer_norm(x, (8,), norm.gamma.weight, norm.bias))
    expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    found = Softmax()(scores, allowed)
    assert_close(found, expected)
    assert (found[0, ..., 3:] == 0).all()


def test_gradients_of_the_pieces():
    x = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Norm(4).double(), x)
    scores = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    allowed = torch.ones(1, 1, 2, 3).bool()
    assert torch.autograd.gradcheck(lambda s: Softmax()(s, allowed), scores)


def test_census():
    """Check 6: 17 points per encoder layer, 28 per decoder layer, 2 sums; 6 + 6 layers have 272."""

    def points(module):
        return sum(isinstance(part, Point) for part in module.modules())

    ours = model()
    assert {points(layer) for layer in ours.encoder["layers"]} == {17}
    assert {points(layer) for layer in ours.decoder["layers"]} == {28}
    assert points(ours) == 2 * (17 + 28) + 2 and 6 * (17 + 28) + 2 == 272
    linear = [m for m in ours.encoder["layers"][0].modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 6
    assert sum(isinstance(m, nn.Linear) for m in ours.decoder["layers"][0].modules()) == 10


def test_refusals():
    with pytest.raises(ValueError, match="heads must divide the width"):
        model(heads=5)
    with pytest.raises(ValueError, match="even width"):
        Positions(5, 4)
    with pytest.raises(ValueError, match="has 40 positions, a sentence has 41"):
        model()(torch.full((1, 41), 5), labels=torch.tensor([[2]]))
    with pytest.raises(ValueError, match="half of the vocabulary of 23"):
        beam_search(model(), torch.tensor([[5, 2]]), beams=12)
