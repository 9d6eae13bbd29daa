interface Point {
  x: number;
  y: number;
}

const norm = ({ x, y }: Point): number => Math.hypot(x, y);
const points: Point[] = [{ x: 3, y: 4 }, { x: 6, y: 8 }];
console.log(points.map(norm).join(' '));
Promise.resolve(points.length as number);
