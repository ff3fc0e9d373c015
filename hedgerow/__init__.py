"""Hedgerow: train centrally, convert to TFLite, refine on the devices in federated rounds over MQTT."""

__version__ = "0.1.0"

__all__ = ["__version__"]
