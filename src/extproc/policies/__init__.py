"""One file per behaviour. The order they run in is one visible tuple: `runtime.ORDER`."""
