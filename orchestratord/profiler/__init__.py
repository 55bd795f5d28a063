"""The reference profiler: measures one node and reports it to the orchestrator."""
