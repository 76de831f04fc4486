"""A cache is given to a model by the name that the model knows: nothing warns, whatever transformers is installed."""

import logging
import warnings

import pytest
import torch
from tiny_models import tiny
from transformers.utils import logging as transformers_logging

import multipole_lab as ml
from multipole_lab.evaluation.generate import generated, prefill
from multipole_lab.interface.cache_name import with_cache


class Old:
    def forward(self, input_ids, past_key_values=None, **kwargs): ...


class New:
    def forward(self, input_ids, cache=None, past_key_values=None): ...


@pytest.mark.parametrize(("model", "name"), [(Old(), "past_key_values"), (New(), "cache")])
def test_the_models_own_signature_says_the_name(model, name):
    assert with_cache(model, 7) == {name: 7}


def test_nothing_warns_when_a_model_reads_and_writes_with_a_cache():
    said = []
    logger = logging.getLogger("transformers")
    transformers_logging.warning_once.cache_clear()  # it says everything once in a process
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        model, prompt = tiny("llama"), torch.arange(12)[None]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error", FutureWarning)
            start = prefill(model, prompt)
            assert len(generated(model, prompt, 3, start)) == 3
            assert len(generated(model, prompt, 3, start, ml.MultipoleCache(config=model.config))) == 3
    finally:
        logger.removeHandler(handler)
    assert not [text for text in said if "past_key_values" in text]
