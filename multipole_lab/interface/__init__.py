"""The attention interface of transformers: whose attention a model calls, with which masks, on which tensors."""
