"""The coordinator: roster, rounds, journal, streaming aggregation and the Flower grid."""
