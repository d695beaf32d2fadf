"""Export of a trained model: for plain transformers, pruned, quantised or as ONNX, with a model card."""
