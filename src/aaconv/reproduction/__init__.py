"""The paper's comparisons in miniature: small networks, embedded tasks, many seeds, plain verdicts."""
