"""ONNX models as modules of torch: lifted to be trained or pruned, and their weights written back into the same graph.

    trainable = lift(onnx.load(path))       # held against onnxruntime, or Refused
    trainable(**inputs)["logits"]           # torch tensors, with gradients
    trainable.initializers                  # tensor of state_dict → initializer of the graph
    onnx.save(trainable.to_onnx(), path)    # new values, and new lengths where channels went

Importing this imports torch.
"""

from openmaas.tasks.optimization.trainable.lifted import Binding, Step, Trainable
from openmaas.tasks.optimization.trainable.lifting import lift

__all__ = ["Binding", "Step", "Trainable", "lift"]
