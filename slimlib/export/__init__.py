"""From a slimmable network to files that run where slimlib is not: ONNX, torch.export, and a manifest beside them.

onnx and onnxruntime are imported only where they are needed, so that slimlib works without them.
"""

from slimlib.export.exporting import export
from slimlib.export.manifest import Manifest, read_manifest

__all__ = ["Manifest", "export", "read_manifest"]
