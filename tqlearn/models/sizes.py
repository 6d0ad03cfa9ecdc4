"""The papers' arithmetic for a translation Transformer: numbers, bits, and what ranges cost."""

FLOAT = 32  # bits


def matrix_numbers(width: int, ffn: int, layers: int, vocabulary: int) -> dict[str, int]:
    """Count the numbers of the matrices: encoder, decoder, and one shared table.

    Source: spec sheet FullyQT, section 6.

    >>> matrix_numbers(512, 2048, 6, 37000)
    {'encoder': 18874368, 'decoder': 25165824, 'embeddings': 18944000}
    """
    return {
        "encoder": layers * (4 * width**2 + 2 * width * ffn),
        "decoder": layers * (8 * width**2 + 2 * width * ffn),
        "embeddings": vocabulary * width,
    }


def float_bits(width: int, ffn: int, layers: int, vocabulary: int) -> int:
    """Count the bits of the matrices in float32, which is the size that the paper gives.

    >>> round(float_bits(512, 2048, 6, 37000) / 1e9, 3)  # gigabits
    2.015
    """
    return FLOAT * sum(matrix_numbers(width, ffn, layers, vocabulary).values())


def quantized_bits(
    width: int, ffn: int, layers: int, vocabulary: int, bits: int, activations: bool = False
) -> int:
    """Count the bits of a min-max quantized model: codes, two floats a row, biases in floats.

    Args:
        activations: count the running ranges too, two floats per feature or tensor.

    >>> base = 512, 2048, 6, 37000
    >>> round(float_bits(*base) / quantized_bits(*base, bits=8), 2)
    3.93
    """
    matrices = sum(matrix_numbers(width, ffn, layers, vocabulary).values())
    rows = layers * (12 * width + 2 * (ffn + width))  # each has a bias
    norms = 5 * layers
    total = bits * (matrices + norms * width)  # gammas have a range each
    total += FLOAT * (2 * (rows + vocabulary + norms) + rows + norms * width)
    if activations:  # features: 4 of an attention, 1 of a FFN, 3 of a norm; the rest are tensors
        features = layers * (3 * 4 + 2 * 1 + 5 * 3) + 2
        tensors = layers * (3 * 3 + 2 * 1 + 5 * 1)
        total += FLOAT * 2 * (features * width + tensors)
    return total
