"""Names of the number formats that networks run in, without torch."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
