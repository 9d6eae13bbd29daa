// The JavaScript and TypeScript kernel. This thread evaluates cells in V8's REPL mode, through an inspector session with
// itself; worker.mjs serves the wire, and can end what runs here without losing its state. What is printed goes straight
// to the pipes of descriptors 1 and 2.
import { Session } from 'node:inspector';
import { createRequire } from 'node:module';
import util from 'node:util';
import vm from 'node:vm';
import { Worker } from 'node:worker_threads';

const MIME = Symbol.for('Jupyter.display');
const INSPECT = { colors: false, maxArrayLength: 1000, maxStringLength: 1 << 20 };
const MAX_BUNDLE_CHARS = 8 << 20;
// A rejection that the end of its cell reports is not also to be told on stderr.
const REJECTION_GRACE_MS = 50;
const INTERRUPT = { ename: 'KeyboardInterrupt', evalue: '', traceback: ['KeyboardInterrupt'] };

const session = new Session();
session.connect();
const post = (method, parameters) =>
  new Promise((resolve, reject) => {
    session.post(method, parameters, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

// Resolves like an import in a module of the working directory.
const load = new vm.Script('(name, options) => import(name, options)', {
  importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
}).runInThisContext();

const worker = new Worker(new URL('./worker.mjs', import.meta.url), { stdin: false, execArgv: [] });
const send = (kind, content, number) => worker.postMessage([kind, content, number]);

function bounded(data) {
  const kept = {};
  for (const [mime, value] of Object.entries(data)) {
    const length = typeof value === 'string' ? value.length : (JSON.stringify(value)?.length ?? 0);
    if (length <= MAX_BUNDLE_CHARS) kept[mime] = typeof value === 'string' ? value : JSON.parse(JSON.stringify(value));
    else if (mime === 'text/plain') kept[mime] = `${value.slice(0, MAX_BUNDLE_CHARS)}\n[cut: ${length} characters]`;
    else kept['text/plain'] ??= `[dropped, over the limit of a display: ${mime} (${length} characters)]`;
  }
  return { data: kept, metadata: {} };
}

async function bundleOf(value) {
  if (value !== null && typeof value === 'object' && typeof value[MIME] === 'function') {
    const bundle = await value[MIME]();
    if (bundle !== null && typeof bundle === 'object') return bundle;
  }
  if (typeof value !== 'string') return { 'text/plain': util.inspect(value, INSPECT) };
  // In one kind of quotes, whatever is in it: the pool takes that pair away.
  return { 'text/plain': `'${util.inspect(value, { ...INSPECT, maxStringLength: Infinity }).slice(1, -1)}'` };
}

/** `display(value)`: a result beside the cell's own; with `{ raw: true }`, `value` is a MIME bundle. */
async function display(value, options = {}) {
  send('display_data', bounded(options.raw ? value : await bundleOf(value)));
}

function explain(error) {
  if (util.types.isNativeError(error) || error instanceof Error) {
    const stack = String(error.stack ?? error)
      .split('\n')
      .filter((line) => !/^\s+at (.*\(?(node:|file:.*\/main\.mjs:)|.*<anonymous>\)?$)/.test(line))
      .join('\n');
    return { ename: String(error.name), evalue: String(error.message), traceback: [stack] };
  }
  const text = util.inspect(error, INSPECT);
  return { ename: 'Uncaught', evalue: text, traceback: [`Uncaught ${text}`] };
}

/** Set variables; return what they were. null, of an absent one, unsets it when it is given back. */
function environment(variables) {
  const before = {};
  for (const [name, value] of Object.entries(variables)) {
    before[name] = process.env[name] ?? null;
    if (value === null) delete process.env[name];
    else process.env[name] = value;
  }
  return before;
}

// The inspector's handle of an object of ours, through which its handles become values.
const hands = { taken: undefined };
Object.defineProperty(globalThis, Symbol.for('raybox.hands'), { value: hands, configurable: true });
const { result: handle } = await post('Runtime.evaluate', { expression: "globalThis[Symbol.for('raybox.hands')]" });
delete globalThis[Symbol.for('raybox.hands')];

async function valueOf({ objectId, value, unserializableValue }) {
  if (objectId === undefined && unserializableValue === undefined) return value;
  await post('Runtime.callFunctionOn', {
    functionDeclaration: 'function (value) { this.taken = value }',
    objectId: handle.objectId,
    arguments: [objectId === undefined ? { unserializableValue } : { objectId }],
  });
  const { taken } = hands;
  hands.taken = undefined;
  return taken;
}

/** The value of a cell's last expression in a list, of the promise if it is one; empty for undefined. */
async function evaluate(expression) {
  let answer = await post('Runtime.evaluate', { expression, replMode: true, awaitPromise: true, objectGroup: 'cell' });
  if (!answer.exceptionDetails && answer.result.subtype === 'promise') {
    answer = await post('Runtime.awaitPromise', { promiseObjectId: answer.result.objectId });
  }
  const { result, exceptionDetails } = answer;
  if (exceptionDetails) {
    throw exceptionDetails.exception ? await valueOf(exceptionDetails.exception) : new Error(exceptionDetails.text);
  }
  return result.type === 'undefined' ? [] : [await valueOf(result)];
}

let variables = {}; // that a cell has changed, as they were before
let interrupt; // of the running cell: what its evaluation is raced with

async function execute({ script, env, number, count }) {
  const interrupted = new Promise((_, reject) => {
    interrupt = () => reject(INTERRUPT);
  });
  let status = 'ok';
  environment(variables); // of a cell whose end was ended
  variables = environment(env);
  try {
    const work = (async () => {
      const values = await evaluate(`${script}\n//# sourceURL=cell-${count}`);
      return values.length ? bounded(await bundleOf(values[0])) : undefined;
    })();
    const bundle = await Promise.race([work, interrupted]);
    if (bundle) send('execute_result', bundle, number);
  } catch (error) {
    status = 'error';
    const ended = error === INTERRUPT || error?.code === 'ERR_INSPECTOR_COMMAND';
    send('error', ended ? INTERRUPT : explain(error), number);
  }
  interrupt = undefined;
  environment(variables);
  variables = {};
  session.post('Runtime.releaseObjectGroup', { objectGroup: 'cell' });
  send('done', { status, number }, number);
}

for (const [name, value] of Object.entries({ display, require: createRequire(`${process.cwd()}/`) })) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
}
Object.defineProperty(globalThis, Symbol.for('raybox.import'), { value: load });

const complain = (error) => process.stderr.write(`${explain(error).traceback[0]}\n`);
const rejected = new Map();
process.on('exit', () => session.disconnect());
process.on('SIGINT', () => {}); // the worker is told by the wire; children in this process group hear the signal
process.on('uncaughtException', complain);
process.on('unhandledRejection', (reason, promise) => {
  rejected.set(promise, setTimeout(() => (rejected.delete(promise), complain(reason)), REJECTION_GRACE_MS));
});
process.on('rejectionHandled', (promise) => {
  clearTimeout(rejected.get(promise));
  rejected.delete(promise);
});

const handlers = {
  execute,
  configure: ({ env }) => void environment(env),
  exercise: () => post('Runtime.evaluate', { expression: '1 + 1', replMode: true }).then(valueOf),
  interrupt: (id) => {
    interrupt?.();
    send('heard', id);
  },
};
worker.on('message', ([kind, content]) => handlers[kind]?.(content));
send('ready', {});
