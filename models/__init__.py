"""Networks: training them, and running voice packs with onnxruntime. Knows no host."""
