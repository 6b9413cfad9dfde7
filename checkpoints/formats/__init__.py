"""Files of others, in: Hugging Face, fairseq and unilm, LightHuBERT. Nothing in them is ever run."""
