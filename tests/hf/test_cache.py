"""Keys and values in few bits: equal to floats where nothing is coded, bounded where something is,
and as many bytes as the shapes say.
"""

import pytest
import torch
from tiny_llamas import tiny_llama
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DynamicCache,
    EncoderDecoderCache,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    ProphetNetConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
)

import tqlearn as tq
from tqlearn import teachers
from tqlearn.hf import QuantizedCache
from tqlearn.hf.coded_states import Coded

PROMPT = torch.tensor([[5, 17, 42, 9, 81, 33, 2, 60, 11, 7]])
GREEDY = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False, "pad_token_id": 0}


def tiny_gpt2():
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(vocab_size=100, **sizes, **ends)).eval()


MODELS = {
    "Llama": lambda: tiny_llama(num_key_value_heads=4),
    "grouped queries": tiny_llama,
    "GPT-2": tiny_gpt2,
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.fixture(scope="module")
def decoder():
    return teachers.load("decoder")


def states(batch=2, heads=3, tokens=40, dim=8, seed=0):
    torch.manual_seed(seed)
    return torch.randn(batch, heads, tokens, dim) * torch.rand(dim) * 5 + torch.randn(dim)


@torch.no_grad()
def logits(model, ids, cache, pieces=None, **more):
    """All logits of a text that is given to the cache in pieces."""
    parts = ids.split(pieces or ids.shape[1], 1)
    return torch.cat([model(part, past_key_values=cache, **more).logits for part in parts], 1)


def test_a_wide_window_is_the_float_cache(model):
    cache = QuantizedCache(model.config, bits=8, per=8, window=40)
    plain = DynamicCache(config=model.config)
    torch.manual_seed(1)
    ids = torch.randint(0, 100, (3, 40))
    assert torch.equal(logits(model, ids, cache, 7), logits(model, ids, plain, 7))
    assert cache.nbytes == sum(4 * (one.keys.numel() + one.values.numel()) for one in plain.layers)


def test_generate_with_a_wide_window_is_the_float_text(model):
    cache = QuantizedCache(model.config, bits=8, per=8, window=64)
    assert torch.equal(
        model.generate(PROMPT, past_key_values=cache, **GREEDY), model.generate(PROMPT, **GREEDY)
    )
    assert cache.get_seq_length() == 39, "the last token is not looked at"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_errors_are_half_a_step_of_a_range_by_hand(bits):
    """Keys: a range for each channel of 8 tokens; values: one for each token and 8 channels."""
    x = states(tokens=16, dim=16)
    for by_channel in (True, False):
        codes = Coded(bits, 8, torch.float32, by_channel)
        codes.add(x)
        found, error = codes.floats(x), 0.0
        for b in range(2):
            for h in range(3):
                for at in range(0, 16, 8):
                    for k in range(16) if by_channel else range(0, 128, 8):
                        part = (b, h, slice(at, at + 8), k)
                        if not by_channel:
                            part = (b, h, at + k // 16, slice(k % 16, k % 16 + 8))
                        low, high = x[part].min(), x[part].max()
                        step = (high - low) / (2**bits - 1)
                        nearest = low + step * ((x[part] - low) / step).round()
                        torch.testing.assert_close(found[part], nearest)
                        error = max(error, float((found[part] - x[part]).abs().max() / step))
        assert 0.4 < error <= 0.5 + 1e-4, "float32 adds a little to half a step"


def test_ends_in_16_bits_clip_nothing():
    """They lie outside of the range, at most one float16 further."""
    x = torch.cat([states(dim=8) * 37, states(dim=8, seed=1) * 1e-3 - 2], 3)
    codes = Coded(8, 8, torch.float16, True)
    codes.add(x)
    rows = x.unflatten(2, (-1, 8))
    low, high = rows.amin(3), rows.amax(3)
    assert (codes.low <= low).all() and (codes.high >= high).all()
    assert codes.low.dtype == torch.float16
    spare = 2**-10 * torch.maximum(low.abs(), high.abs()) + 1e-7
    assert (low - codes.low <= spare).all() and (codes.high - high <= spare).all()
    step = ((codes.high.float() - codes.low.float()) / 255).repeat_interleave(8, 2)
    error = (codes.floats(x) - x).abs()
    assert (error <= step.reshape(error.shape) / 2 + x.abs() * 1e-6).all()
    assert (error > step.reshape(error.shape) / 4).any()


def test_a_range_of_one_number_is_that_number():
    x = torch.full((1, 1, 8, 8), -3.0)
    x[..., 4:] = 0
    codes = Coded(2, 8, torch.float16, True)
    codes.add(x)
    torch.testing.assert_close(codes.floats(x), x)


def test_bytes_are_what_the_shapes_say(llama):
    """2 layers, 3 texts of 40 tokens, 2 heads of 8 channels; 8 tokens and 8 left over in floats."""
    ids = torch.randint(0, 100, (3, 40))
    for bits, ends in ((2, 2), (4, 2), (8, 2), (3, 4)):
        ranges = {2: "float16", 4: "float32"}[ends]
        cache = QuantizedCache(llama.config, bits=bits, per=8, window=10, ranges=ranges)
        logits(llama, ids, cache)
        coded, floats = 24, 16
        numbers = 2 * 2 * 3 * 2 * 8  # layers, keys and values, texts, heads, channels
        wanted = numbers * (coded * bits // 8 + coded // 8 * 2 * ends + floats * 4)
        assert cache.nbytes == wanted
        assert cache.layers[0].codes[0].stream.dtype == torch.uint8


def test_codes_are_made_once(llama):
    """In pieces or at once, whatever the pieces: the same blocks from the same states."""
    key, value = states(), states(seed=1)
    found = []
    for pieces in (40, 1, 7):
        cache = QuantizedCache(llama.config, bits=2, per=8, window=8)
        for k, v in zip(key.split(pieces, 2), value.split(pieces, 2), strict=True):
            seen = cache.update(k, v, 0)
        found.append((cache.layers[0], seen))
    for (layer, seen), last in zip(found[1:], (1, 5), strict=True):
        assert layer.get_seq_length() == 40 and seen[0].shape == key.shape
        for mine, first in zip(layer.codes, found[0][0].codes, strict=True):
            assert all(map(torch.equal, mine.tensors(), first.tensors()))
        assert torch.equal(layer.newest[0], key[:, :, 32:]) and len(layer.codes[0]) == 32
        assert torch.equal(seen[0][:, :, -last:], key[:, :, -last:]), "new tokens come as floats"
    assert torch.equal(found[0][1][0], key) and torch.equal(found[0][1][1], value)


@pytest.mark.parametrize("bits", [8, 2])
def test_more_bits_are_nearer(model, bits):
    torch.manual_seed(1)
    ids = torch.randint(0, 100, (2, 40))
    cache = QuantizedCache(model.config, bits=bits, per=8, window=0)
    found = logits(model, ids, cache, 1)
    wanted = logits(model, ids, DynamicCache(config=model.config), 1)
    error = float((found - wanted).norm() / wanted.norm())
    assert 0 < error < 0.02 if bits == 8 else 0.05 < error < 1


def test_a_compressed_model_has_one_too(llama):
    plan = {"*.layers.*": [tq.LSQ(bits=4, init="mse", per=8)]}
    student = tq.calibrate(tq.compress(llama, plan))
    text = [
        model.generate(
            PROMPT, past_key_values=QuantizedCache(model.config, bits=4, per=8, window=8), **GREEDY
        )
        for model in (student, tq.pack(student))
    ]
    assert torch.equal(*text) and text[0].shape == (1, 40)


def test_padded_batches(model):
    """With a wide window to the bit; coded, each row near to what it is in floats."""
    ids = PROMPT.repeat(2, 1)
    mask = torch.ones_like(ids)
    ids[1, :6], mask[1, :6] = 0, 0
    more = GREEDY | {"attention_mask": mask}
    wide = QuantizedCache(model.config, bits=8, per=8, window=64)
    assert torch.equal(
        model.generate(ids, past_key_values=wide, **more), model.generate(ids, **more)
    )
    cache = QuantizedCache(model.config, bits=8, per=8, window=0)
    plain = DynamicCache(config=model.config)
    pairs = []
    for one in (cache, plain):
        with torch.no_grad():
            model(ids, attention_mask=mask, past_key_values=one)
            longer = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
            pairs.append(model(ids[:, :1], attention_mask=longer, past_key_values=one).logits)
    error = (pairs[0] - pairs[1]).flatten(1).norm(dim=1) / pairs[1].flatten(1).norm(dim=1)
    assert (error < 0.02).all() and (error > 0).all()


def test_beam_search_moves_codes_with_their_rows(llama):
    """With a wide window to the bit; and a reordered cache is that of the reordered texts."""
    wide = QuantizedCache(llama.config, bits=8, per=8, window=64)
    beams = GREEDY | {"num_beams": 3}
    assert torch.equal(
        llama.generate(PROMPT, past_key_values=wide, **beams), llama.generate(PROMPT, **beams)
    )
    ids, order = torch.randint(0, 100, (3, 30)), torch.tensor([2, 0, 0])
    moved, wanted = (QuantizedCache(llama.config, bits=2, per=8, window=8) for _ in range(2))
    logits(llama, ids, moved)
    logits(llama, ids[order], wanted)
    moved.reorder_cache(order)
    last = torch.randint(0, 100, (3, 1))
    torch.testing.assert_close(logits(llama, last, moved), logits(llama, last, wanted))
    few = QuantizedCache(llama.config, bits=4, per=8, window=8)
    assert llama.generate(PROMPT, past_key_values=few, **beams).shape == (1, 40)


def test_rows_are_repeated_and_selected(llama):
    key, value = states(), states(seed=1)
    one, two = (QuantizedCache(llama.config, bits=4, per=8, window=8) for _ in range(2))
    one.update(key, value, 0)
    two.update(key, value, 0)
    two.batch_repeat_interleave(2)  # rows 0, 0, 1, 1
    two.batch_select_indices(torch.tensor([3, 1, 0]))
    new, order = key[:, :, :1], torch.tensor([1, 0, 0])
    for found, wanted in zip(two.update(new[order], new[order], 0), one.update(new, new, 0),
                             strict=True):  # fmt: skip
        assert torch.equal(found, wanted[order]) and found.shape == (3, 3, 41, 8)


def test_crop_takes_tokens_from_the_end(llama):
    key, value = states(), states(seed=1)
    for removed in (0, 3, 8, 9, 13, 40, 50):
        cache = QuantizedCache(llama.config, bits=4, per=8, window=8)
        cache.update(key, value, 0)
        held = [codes.floats(key) for codes in cache.layers[0].codes]
        cache.layers[0].crop(-removed)
        left = max(0, 40 - removed)
        assert cache.get_seq_length() == left
        new = key[:, :, :2]
        for found, coded, plain in zip(cache.update(new, new, 0), held, (key, value), strict=True):
            whole = torch.cat([coded, plain[:, :, 32:]], 2)[:, :, :left]
            assert torch.equal(found, torch.cat([whole, new], 2)), removed
    with pytest.raises(ValueError, match="minus the number of tokens, got 3"):
        cache.layers[0].crop(3)


def test_prompt_lookup_crops_it(llama):
    cache = QuantizedCache(llama.config, bits=8, per=8, window=64)
    ids = PROMPT.repeat(1, 2)
    more = GREEDY | {"prompt_lookup_num_tokens": 3}
    assert torch.equal(
        llama.generate(ids, past_key_values=cache, **more), llama.generate(ids, **GREEDY)
    )


def test_reset_makes_it_new(llama):
    cache = QuantizedCache(llama.config, bits=2, per=8, window=8)
    first = llama.generate(PROMPT, past_key_values=cache, **GREEDY)
    cache.reset()
    assert cache.get_seq_length() == 0 == cache.nbytes
    assert torch.equal(llama.generate(PROMPT, past_key_values=cache, **GREEDY), first)


def test_half_floats(llama):
    model = tiny_llama().to(torch.bfloat16)
    cache = QuantizedCache(model.config, bits=8, per=8, window=8)
    logits(model, torch.randint(0, 100, (1, 30)), cache)
    seen = cache.update(states(1, 2, 1).bfloat16(), states(1, 2, 1).bfloat16(), 0)
    assert seen[0].dtype == torch.bfloat16 == seen[1].dtype


def test_the_packaged_decoder_writes_the_same_at_8_bits(decoder):
    model, tokenizer = decoder
    told = tq.data.load("flight_text")["validation"]["text"][:8]
    for start in ("i need a flight", "show me", "what is the"):
        ids = tokenizer("\n".join([*told, start]), return_tensors="pt")["input_ids"]
        cache = QuantizedCache(model.config, bits=8, window=0)
        found = model.generate(ids, past_key_values=cache, max_length=128, do_sample=False)
        assert len(cache.layers[0].codes[0]) >= 64, "what was told comes off codes"
        assert found.shape[1] >= ids.shape[1] + 3
        assert torch.equal(found, model.generate(ids, max_length=128, do_sample=False))


ENDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2}


def tiny_t5():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = T5Config(vocab_size=100, **sizes, **ENDS)
    return T5ForConditionalGeneration(config).eval()


def tiny_bart():
    """Of one layer in the encoder and two in the decoder, each with a cache."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "init_std": 0.3}
    sizes |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")}
    more = {"max_position_embeddings": 64, "forced_eos_token_id": None}
    return BartForConditionalGeneration(BartConfig(vocab_size=100, **sizes, **more, **ENDS)).eval()


@pytest.fixture(params=[tiny_t5, tiny_bart], ids=["T5", "BART"])
def translator(request):
    return request.param()


@pytest.fixture
def source():
    """A ragged batch."""
    torch.manual_seed(2)
    ids, mask = torch.randint(3, 100, (2, 21)), torch.ones(2, 21, dtype=torch.long)
    ids[1, 15:], mask[1, 15:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def forced(model, source, cache):
    """The logits of a given text, a token at a time."""
    torch.manual_seed(3)
    read, found = model.get_encoder()(**source), []
    for ids in torch.randint(3, 100, (2, 30)).split(1, 1):
        more = {"encoder_outputs": read, "decoder_input_ids": ids, "past_key_values": cache}
        found.append(model(attention_mask=source["attention_mask"], **more).logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("beams", [1, 3])
def test_with_an_encoder_a_wide_window_writes_the_float_text(translator, source, beams):
    cache = QuantizedCache.with_encoder(translator.config, 8, per=8, window=64)
    more = GREEDY | {"num_beams": beams}
    wanted = translator.generate(**source, **more)
    assert torch.equal(translator.generate(**source, past_key_values=cache, **more), wanted)
    assert wanted.shape == (2, 31) and cache.get_seq_length() == 30


def test_with_an_encoder_transformers_refuses_to_crop(translator, source):
    cache = QuantizedCache.with_encoder(translator.config, per=8)
    ids = source["input_ids"][:1]
    with pytest.raises(TypeError, match="only defined for dynamic cache, got QuantizedCache"):
        translator.generate(ids, past_key_values=cache, prompt_lookup_num_tokens=3, **GREEDY)


def test_with_an_encoder_more_bits_are_nearer(translator, source):
    """Coded old tokens of the text alone, and of the source as well."""
    wanted = forced(translator, source, EncoderDecoderCache(DynamicCache(), DynamicCache()))
    lost = {}
    for bits in (8, 2):
        pair = [QuantizedCache.with_encoder(translator.config, bits, per=8, window=0) for _ in "12"]
        both, own = pair[0], pair[1].self_attention_cache
        for name, cache in (("own", EncoderDecoderCache(own, DynamicCache())), ("both", both)):
            found = forced(translator, source, cache)
            lost[name, bits] = float((found - wanted).norm() / wanted.norm())
        assert len(own.layers) == 2 and len(own.layers[1].codes[0]) == 24
        assert len(both.cross_attention_cache.layers[1].codes[0]) == 16
    assert 0 < lost["own", 8] < 0.02 and 0 < lost["both", 8] < 0.02
    assert lost["own", 8] != lost["both", 8] and lost["own", 2] > 10 * lost["own", 8]
    assert lost["both", 2] > 10 * lost["both", 8]


def test_the_source_takes_the_bytes_that_the_shapes_say(translator, source):
    """Two texts of 21 tokens, 4 heads of 8 channels: 16 tokens are coded at 4 + 32 / 8 bits."""
    cache = QuantizedCache.with_encoder(translator.config, 4, per=8, window=0)
    forced(translator, source, cache)
    numbers = 2 * 2 * 2 * 4 * 8  # layers, keys and values, texts, heads, channels
    assert cache.cross_attention_cache.nbytes == numbers * (16 + 5 * 4)


def test_layers_of_a_decoder_are_counted_by_themselves():
    t5, bart = T5Config(num_layers=1, num_decoder_layers=3), BartConfig(decoder_layers=1)
    assert [len(QuantizedCache.with_encoder(config)) for config in (t5, bart)] == [3, 1]
    assert (t5.num_layers, t5.is_encoder_decoder, bart.encoder_layers) == (1, True, 12), "as before"


def test_prophetnet_counts_its_layers_by_itself():
    config = ProphetNetConfig(num_encoder_layers=3, num_decoder_layers=2)
    assert len(QuantizedCache.with_encoder(config).self_attention_cache.layers) == 2


def test_a_refused_update_leaves_keys_and_values_of_one_length(llama):
    layer = QuantizedCache(llama.config, window=0, per=8).layers[0]
    keys = states(batch=1, tokens=8)
    with pytest.raises(ValueError, match="float16"):
        layer.update(keys, 1e6 * keys)
    assert layer.get_seq_length() == 0 and [len(codes) for codes in layer.codes] == [0, 0]


def test_keys_and_values_of_a_layer_are_all_of_them(llama):
    """Cross-attention reads them after its first call; new ones are the same as an update gives."""
    key, value = states(), states(seed=1)
    cache = QuantizedCache(llama.config, bits=4, per=8, window=8)
    layer = cache.layers[0]
    assert layer.keys is None and layer.values is None
    cache.update(key, value, 0)
    held = layer.keys, layer.values
    seen = cache.update(key[:, :, :1], value[:, :, :1], 0)
    for found, wanted, exact in zip(held, seen, (key, value), strict=True):
        assert torch.equal(found, wanted[:, :, :-1]) and found.shape == exact.shape
        assert torch.equal(found[:, :, 32:], exact[:, :, 32:])
        assert 0 < float((found - exact)[:, :, :32].norm() / exact.norm()) < 0.1


def test_refusals(llama):
    config = llama.config
    for settings, words in (
        ({"bits": 1}, "bits must be an integer from 2 to 8, got 1"),
        ({"per": 12}, "multiple of 8, so that blocks are whole bytes; got 12"),
        ({"window": -1}, "newest tokens in floats, got -1"),
        ({"ranges": "int8"}, r"ranges is one of \('float16', 'float32'\), got 'int8'"),
    ):
        with pytest.raises(ValueError, match=words):
            QuantizedCache(config, **settings)
    with pytest.raises(TypeError, match="config must be"):
        QuantizedCache(llama)
    with pytest.raises(ValueError, match="MistralConfig asks for DynamicSlidingWindowLayer"):
        QuantizedCache(MistralConfig(num_hidden_layers=2))
    for encoder in (BartConfig(), tiny_t5().decoder.config):
        with pytest.raises(ValueError, match="has an encoder, .* take QuantizedCache.with_encoder"):
            QuantizedCache(encoder)
    with pytest.raises(ValueError, match="LlamaConfig has no encoder; take QuantizedCache.config"):
        QuantizedCache.with_encoder(config)
    with pytest.raises(ValueError, match="T5GemmaModuleConfig asks for DynamicSlidingWindowLayer"):
        QuantizedCache.with_encoder(T5GemmaConfig())
    with pytest.raises(ValueError, match="bits must be an integer from 2 to 8, got 9"):
        QuantizedCache.with_encoder(BartConfig(), bits=9)
    cache = QuantizedCache(config)
    with pytest.raises(ValueError, match="48 channels do not divide .* take per=24"):
        cache.update(states(dim=48), states(dim=48), 0)
    with pytest.raises(ValueError, match="36 channels do not divide .* take per=40"):
        cache.update(states(dim=36), states(dim=36), 0)
    with pytest.raises(ValueError, match="pass no gradient on"):
        cache.update(states().requires_grad_(), states(), 0)
    with pytest.raises(ValueError, match="65,504, a key or value is .* take ranges='float32'"):
        cache.update(states(tokens=80) * 1e6, states(tokens=80), 0)
    with pytest.raises(ValueError, match="finite values"):
        cache = QuantizedCache(config)
        cache.update(states(tokens=80) * torch.nan, states(tokens=80), 0)
