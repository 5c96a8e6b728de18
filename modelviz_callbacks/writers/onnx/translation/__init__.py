"""One torch call as ONNX ops: each distinct call is translated once a process."""
