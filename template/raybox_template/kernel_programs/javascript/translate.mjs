// A cell as V8's REPL mode takes it: types removed, imports and exports turned into what a script may say. Pure.
import { parse } from 'acorn';
import { transform } from 'sucrase';

const LOAD = "globalThis[Symbol.for('raybox.import')]";

/** Never throws: what cannot be parsed is returned as it is, for V8 to say what is wrong with it. */
export function translate(code) {
  let script = code;
  try {
    // Imports that this cell does not use may be meant for the next one.
    script = transform(code, { transforms: ['typescript'], keepUnusedImports: true, disableESTransforms: true }).code;
  } catch {
    return code;
  }
  const tree = parsed(script);
  if (tree === undefined) return script;
  const edits = [];
  collect(tree, script, edits);
  edits.sort((a, b) => b.start - a.start);
  for (const { start, end, text } of edits) script = script.slice(0, start) + text + script.slice(end);
  return script;
}

function parsed(script) {
  for (const sourceType of ['module', 'script']) {
    try {
      return parse(script, { ecmaVersion: 'latest', sourceType, allowAwaitOutsideFunction: true, allowHashBang: true });
    } catch {
      // strict mode may be what it does not survive
    }
  }
  return undefined;
}

function collect(node, script, edits) {
  if (node.type === 'ImportDeclaration') {
    edits.push({ start: node.start, end: node.end, text: imported(node, script) });
    return;
  }
  if (node.type === 'ExportNamedDeclaration' || node.type === 'ExportDefaultDeclaration') {
    const inner = node.declaration;
    if (inner) edits.push({ start: node.start, end: inner.start, text: '' });
    else edits.push({ start: node.start, end: node.end, text: '' });
  } else if (node.type === 'ImportExpression') {
    // Code of the inspector has no module that an import() could be relative to.
    edits.push({ start: node.start, end: node.start + 'import'.length, text: LOAD });
  }
  for (const child of Object.values(node)) {
    if (Array.isArray(child)) for (const one of child) one && one.type && collect(one, script, edits);
    else if (child && typeof child.type === 'string') collect(child, script, edits);
  }
}

function imported(node, script) {
  const options = node.attributes?.length
    ? `, { with: { ${node.attributes.map((one) => script.slice(one.start, one.end)).join(', ')} } }`
    : '';
  const module = `await ${LOAD}(${node.source.raw}${options})`;
  const lines = '\n'.repeat(script.slice(node.start, node.end).split('\n').length - 1);
  const whole = node.specifiers.find((one) => one.type === 'ImportNamespaceSpecifier');
  const parts = node.specifiers
    .filter((one) => one !== whole)
    .map((one) => {
      if (one.type === 'ImportDefaultSpecifier') return `default: ${one.local.name}`;
      return `${one.imported.raw ?? one.imported.name}: ${one.local.name}`;
    });
  if (whole) {
    const rest = parts.length ? ` var { ${parts.join(', ')} } = ${whole.local.name};` : '';
    return `var ${whole.local.name} = ${module};${rest}${lines}`;
  }
  return parts.length ? `var { ${parts.join(', ')} } = ${module};${lines}` : `void (${module});${lines}`;
}
