// Tries the transformations of the dashboards with Grafana's own library, beside sums made by the calendar here.
//
//     npm install --prefix DIRECTORY --legacy-peer-deps @grafana/data@11.6.0 react react-dom rxjs
//     node docs/grafana/transformations.mjs DIRECTORY
//
// Ten days of hours in Berlin's time zone, with the end of its summer time, go through each bar chart.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

// The library looks for a browser when it is loaded, and does nothing with it here.
const nothing = new Proxy(function () {}, {
  get: (_, key) => (key === Symbol.toPrimitive ? () => '' : nothing),
  apply: () => nothing,
  set: () => true,
});
const browser = ['document', 'localStorage', 'location', 'history', 'addEventListener'];
const absent = Object.fromEntries(browser.map((key) => [key, nothing]));
Object.assign(globalThis, { window: globalThis, self: globalThis, ...absent });

const require = createRequire(path.resolve(process.argv[2], 'package.json'));
const grafana = require('@grafana/data');
const { formatTimeTransformer, groupByTransformer } = grafana.standardTransformers;
// The registry's entries hold the transformer in 11.6, and a function that loads it in 13.2: here one that is both.
const entry = (one) => Object.defineProperties(async () => one, Object.getOwnPropertyDescriptors(one));
grafana.standardTransformersRegistry.setInit(() =>
  [formatTimeTransformer, groupByTransformer].map((one) => ({
    id: one.id,
    name: one.name,
    transformation: entry(one),
  })),
);
const zone = 'Europe/Berlin';
grafana.setTimeZoneResolver(() => zone);

const hours = Array.from({ length: 240 }, (_, hour) => Date.UTC(2025, 9, 24, 22) + hour * 3600e3);
const numbers = hours.map((_, hour) => (hour % 7) + 1);
const dateOf = new Intl.DateTimeFormat('sv', { timeZone: zone, dateStyle: 'short' }); // 2025-10-25
let failed = false;

for (const source of ['influxdb', 'victoriametrics']) {
  const dashboard = JSON.parse(fs.readFileSync(new URL(`${source}.json`, import.meta.url)));
  for (const panel of dashboard.panels.filter((one) => one.transformations)) {
    const [{ options: time }, { options: group }] = panel.transformations;
    const [column, { aggregations }] = Object.entries(group.fields)[1];
    const frame = {
      refId: 'A',
      length: hours.length,
      fields: [
        { name: 'Time', type: 'time', config: {}, values: hours },
        { name: 'Value', type: 'number', config: { displayNameFromDS: column }, labels: {}, values: numbers },
      ],
    };
    const expected = {};
    hours.forEach((hour, at) => {
      const period = dateOf.format(hour).slice(0, time.outputFormat.length);
      const before = expected[period] ?? 0;
      expected[period] = aggregations[0] === 'sum' ? before + numbers[at] : Math.max(before, numbers[at]);
    });
    const [{ fields }] = await new Promise((resolve) =>
      grafana.transformDataFrame(panel.transformations, [frame]).subscribe(resolve),
    );
    const found = Object.fromEntries(fields[0].values.map((period, at) => [period, fields[1].values[at]]));
    const range = grafana.rangeUtil.describeTextRange(panel.timeFrom);
    const good = JSON.stringify(found) === JSON.stringify(expected) && !range.invalid;
    failed ||= !good;
    const names = fields.map((one) => one.name);
    console.log(`${good ? 'ok ' : 'BAD'} ${source}, ${panel.title}: ${names}, from ${range.from}`);
  }
}
process.exitCode = failed ? 1 : 0;
