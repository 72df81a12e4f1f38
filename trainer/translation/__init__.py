"""EEG to MEG on paired shards: splits, batches, baselines, training through transformers' Trainer,
scores and reports. `trainer/eeg2meg.py` and `trainer/eval_eeg2meg.py` are the commands."""
