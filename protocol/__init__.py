"""What both daemons say: topics, messages, blobs, tensors on the wire, signatures, and the MQTT link."""
