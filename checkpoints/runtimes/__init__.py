"""Exports, out: for `transformers`, ONNX Runtime and s3prl; and opened again, to be measured."""
