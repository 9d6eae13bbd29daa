import { createHash } from 'node:crypto';

const words = ['one', 'two', 'three'];
const digests = await Promise.all(words.map(async (word) => createHash('sha256').update(word).digest('hex').slice(0, 8)));
console.log(digests.join(' '));
words.length;
