"""Opens the ONNX networks of voices so that they also return how long each symbol lasts."""

from __future__ import annotations

from typing import Any


def open_network(model: bytes, durations: str) -> Any:
    """An onnxruntime.InferenceSession with a tensor of the graph as its last output, on one thread: others round
    otherwise. The same bytes always start with the same random numbers.

    Raises an error of onnxruntime if the bytes are no model, or have no such tensor.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    onnxruntime.set_seed(0)
    return onnxruntime.InferenceSession(with_output(model, durations), options, providers=["CPUExecutionProvider"])


def with_output(model: bytes, tensor: str) -> bytes:
    """An ONNX model that also returns a tensor of its graph.

    Protocol buffers merge a message that comes twice, so the output can be appended: field 7 of the model is the graph,
    whose field 12 is an output, whose field 1 is its name.
    """
    return model + message(7, message(12, message(1, tensor.encode())))


def message(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """An integer, at least 0, in the encoding of protocol buffers."""
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])
