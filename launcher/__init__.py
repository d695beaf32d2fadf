"""A distributed training launcher for encoders. The global batch is the contract.

Read the package in the order in which a run happens: config, contract, plan, prepare, launch, worker, run.
"""

__version__ = "0.1.0"
