# IRkernel, but that SIGINT waits outside of cells, where it would end R: the pool interrupts as soon as it hears that a
# cell has begun, which is a moment before R evaluates it.
local({
  imports <- parent.env(asNamespace("IRkernel"))
  evaluate <- get("evaluate", imports)
  unlockBinding("evaluate", imports)
  assign("evaluate", function(input, envir = NULL, ...) {
    if (is.null(envir)) return(evaluate(input, ...)) # something of IRkernel's own, and no cell
    # One that came too late for its cell is not the next one's.
    on.exit(tryCatch(allowInterrupts(Sys.sleep(0)), interrupt = function(condition) NULL))
    allowInterrupts(evaluate(input, envir, ...))
  }, imports)
  lockBinding("evaluate", imports)
})
suspendInterrupts(IRkernel::main())
