"""The README beside a compressed model: what it says, and whose it leaves alone."""

import torch
from transformers import BertConfig, BertForMaskedLM

import tqlearn as tq
from tqlearn.hf.card import BLANK, MARK, dense_parameters


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return BertForMaskedLM(config).eval()


PLAN = {"*.query": [tq.TT(rank=4, order=2), tq.LSQ(4)], "*.dense": [tq.TwoFour(), tq.SAWB(4)]}


def test_what_a_card_says(tmp_path):
    teacher = bert()
    packed = tq.pack(tq.calibrate(tq.compress(teacher, PLAN)))
    packed.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n") and MARK in text
    assert "import tqlearn.hf" in text and "from transformers import BertForMaskedLM" in text
    told = tq.report(packed, reference=teacher)
    whole = 4 * sum(p.numel() for p in teacher.parameters())
    assert dense_parameters(packed) == whole // 4
    for label, size in (
        ("nominal bytes", told.nominal),
        ("with scales and metadata", told.with_metadata),
        ("whole file", (tmp_path / "model.safetensors").stat().st_size),
    ):
        assert f"| {label} | {size:,} | {whole:,} | {whole / size:.2f}x |" in text
    assert f"{told.parameters:,} parameters, of {whole // 4:,} in the dense model" in text
    query = next(line for line in text.splitlines() if ".query`" in line)
    assert query.startswith("| `bert.encoder.layer.*.attention.self.query` | 2 | TTLinear(")
    assert "LSQ(bits=4)" in query and "tqlearn.pack" not in text
    output = next(line for line in text.splitlines() if "layer.*.output.dense`" in line)
    assert "weight: NMMask() then SAWB(bits=4" in output


def test_a_fake_quantized_one_says_that_it_is_not_packed(tmp_path):
    student = tq.calibrate(tq.compress(bert(), PLAN))
    student.save_pretrained(tmp_path)
    assert "`tqlearn.pack(model)` before saving" in (tmp_path / "README.md").read_text()


def test_whose_readme_it_leaves_alone(tmp_path):
    file = tmp_path / "README.md"
    student = tq.calibrate(tq.compress(bert(), PLAN))
    file.write_bytes(mine := "mine, très".encode("latin-1"))
    student.save_pretrained(tmp_path)
    assert file.read_bytes() == mine
    file.write_text(f"---\ntags: []\n---\n{BLANK}.")  # nobody's: transformers' when it has none
    student.save_pretrained(tmp_path)
    first = file.read_text()
    assert MARK in first
    tq.pack(student).save_pretrained(tmp_path)  # ours: written anew
    assert file.read_text() != first and MARK in file.read_text()
    file.write_text(first.replace(MARK, "now it is mine"))
    student.save_pretrained(tmp_path)
    assert "now it is mine" in file.read_text()
    file.write_text(first)
    tq.bake(student, dense=True).save_pretrained(tmp_path)  # no card of ours beside a dense model
    assert not file.exists()


def test_a_process_that_is_not_the_main_one_writes_none(tmp_path):
    student = tq.calibrate(tq.compress(bert(), PLAN))
    student.save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "README.md").exists()


def test_the_card_goes_to_the_hub(tmp_path, monkeypatch):
    """transformers writes a card that nobody has written over ours, then uploads the folder."""
    sent = {}

    def upload(self, folder, *args, **kwargs):
        sent["text"] = (tmp_path / "README.md").read_text()

    monkeypatch.setattr(BertForMaskedLM, "_upload_modified_files", upload)
    monkeypatch.delattr(BertForMaskedLM.save_pretrained, "tqlearn_guard", raising=False)
    monkeypatch.setattr(BertForMaskedLM, "save_pretrained", BertForMaskedLM.save_pretrained)
    student = tq.calibrate(tq.compress(bert(), PLAN))
    student.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(BLANK)
    student._upload_modified_files(tmp_path, "me/small", {})
    assert MARK in sent["text"]
    (tmp_path / "README.md").write_text("of the repository")
    student._upload_modified_files(tmp_path, "me/small", {})
    assert sent["text"] == "of the repository"
