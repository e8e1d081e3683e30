"""report.py: results as Markdown and SVG: medians, spread, ratios to tasker, goals.

Called by run.py. A run's samples are also kept as they came, in results.json.
"""
import html
import os
import shutil
import statistics

from goals import GOALS

HEADINGS = {
    'rate': 'steps/s', 'cpu': 'server CPU µs', 'driver_share': 'driver, of a processor', 'wal': 'WAL B',
    'writes': 'row writes', 'buffers': 'buffers', 'hot_share': 'HOT', 'steps_per_commit': 'steps/commit', 'round_trips': 'round trips',
    'inserts': 'inserts', 'updates': 'updates', 'deletes': 'deletes', 'p50': 'p50', 'p99': 'p99', 'client_p50': 'client p50',
    'client_p99': 'client p99', 'round_trip_p50': 'round trip p50', 'round_trip_p99': 'round trip p99', 'call1': '1st call',
    'call2': '2nd call', 'call20': '20th call', 'ready': 'ready steps', 'us': 'µs', 'first_buffers': 'first 10',
    'last_buffers': 'last 10', 'clean': 'clean steps/s', 'share': 'of clean', 'least': 'least', 'most': 'most', 'size': 'MB', 'size3': 'MB after 3 ×', 'indexes': 'of it indexes',
    'growth': 'growth',
}


def number(value):
    if value is None:
        return ''
    if abs(value) >= 1000:
        return '{:,.0f}'.format(value)
    return '%.3g' % value if abs(value) >= 100 or abs(value) < 1 else '%.2f' % value


class Results:
    """The samples of a run: group -> row -> [sample]."""

    def __init__(self, groups, samples):
        self.groups = groups
        self.samples = samples

    def rows(self, group):
        return list(self.samples.get(group, {}))

    def values(self, group, row, measure):
        return [s[measure] for s in self.samples.get(group, {}).get(row, ()) if s.get(measure) is not None]

    def median(self, group, row, measure):
        values = self.values(group, row, measure)
        return statistics.median(values) if values else None

    def ratio(self, group, row, base, measure='rate'):
        """The median over the rounds of row's rate over base's."""
        pairs = zip(self.samples.get(group, {}).get(row, ()), self.samples.get(group, {}).get(base, ()))
        ratios = [a[measure] / b[measure] for a, b in pairs if a.get(measure) and b.get(measure)]
        return statistics.median(ratios) if ratios else None

    def share(self, group, of):
        """tasker's rate over another row's."""
        mine = [row for row in self.rows(group) if row.startswith('tasker')]
        return self.ratio(group, mine[0], of) if mine else None

    def over(self, group, row, a, b):
        x, y = self.median(group, row, a), self.median(group, row, b)
        return x / y if x and y else None

    def over_rows(self, group, a, b, measure):
        rows = self.rows(group)
        if len(rows) < 2:
            return None
        return self.median(group, rows[a], measure) / self.median(group, rows[b], measure)

    def difference(self, group, row, a, b):
        x = self.median(group, row, a)
        return None if x is None else x - (self.median(group, row, b) or 0 if b else 0)

    def best_rate(self, names, groups):
        """The best median of the rows whose names begin so, in one group or (its key ends in a blank) in several."""
        rates = [self.median(g, row, 'rate') for g in self.samples
                 if g == groups or groups.endswith(' ') and g.startswith(groups)
                 for row in self.rows(g) if row.lower().startswith(tuple(names))]
        rates = [r for r in rates if r]
        return max(rates) if rates else None

    def phase(self, kind, phase):
        return self.median('phases', '%s, %s' % (kind, phase), 'share')


# ---- Markdown ------------------------------------------------------------------------


def table(header, rows):
    lines = ['| ' + ' | '.join(header) + ' |', '|' + '---|' + '---:|' * (len(header) - 1)]
    return '\n'.join(lines + ['| ' + ' | '.join(row) + ' |' for row in rows])


def group_table(results, group):
    primary = group.columns[0]
    columns = [c for c in group.columns[1:] if any(results.values(group.key, row, c) for row in results.rows(group.key))]
    header = [''] + [HEADINGS[primary], 'min – max'] + (['× tasker'] if group.base else []) + [HEADINGS[c] for c in columns]
    rows = []
    for name in results.rows(group.key):
        values = results.values(group.key, name, primary)
        spread = '%s – %s' % (number(min(values)), number(max(values))) if len(values) > 1 else ''
        row = [name, number(statistics.median(values)) if values else 'failed', spread]
        if group.base:
            ratio = results.ratio(group.key, name, group.base)
            row.append('' if ratio is None else '%.2f' % ratio)
        rows.append(row + [number(results.median(group.key, name, c)) for c in columns])
    return table(header, rows)


def goals_table(results):
    rows, met, missed, reasons = [], 0, 0, []
    for goal in GOALS:
        value = goal.measure(results)
        if value is None:
            verdict = 'not measured'
        elif goal.good(value):
            verdict, met = 'met', met + 1
        else:
            verdict, missed = '**not met**', missed + 1
            reasons.append('- *%s*: %s' % (goal.text, goal.why or 'not known; the tables below may tell.'))
        rows.append([goal.text, ('%s %s' % (goal.need, goal.unit)).strip(), number(value), verdict])
    text = table(['goal', 'limit', 'measured', ''], rows)
    return '\n'.join([text, '', 'Why not:', ''] + reasons if reasons else [text]), met, missed


def faster_peers(results):
    """Rows in which somebody else's rate is higher than tasker's; the floor is meant to be."""
    return ['%s: %s is %.2f times as fast as tasker.' % (group.title, row, results.ratio(group.key, row, group.base))
            for group in results.groups if group.base and group.key.startswith('external')
            for row in results.rows(group.key) if row != group.base and not row.startswith(('floor', 'tasker'))
            and (results.ratio(group.key, row, group.base) or 0) > 1]


def markdown(results, facts, absent, errors):
    goals, met, missed = goals_table(results)
    text = ['# Benchmark of tasker, %s' % facts.pop('date'), '',
            table(['', ''], [[k, v] for k, v in facts.items()]), '', '![rates](chart.svg)', '',
            '## Goals: %d met, %d not met' % (met, missed), '', goals, '']
    faster = faster_peers(results)
    text += ['## Where a peer is faster', ''] + (['- ' + f for f in faster] or ['Nowhere in this run.']) + ['']
    for group in results.groups:
        if results.rows(group.key):
            text += ['## ' + group.title, '', group_table(results, group), ''] + ['%s\n' % note for note in group.notes]
    if absent:
        text += ['## Not run', ''] + ['- **%s**: %s' % item for item in absent] + ['']
    if errors:
        text += ['## Failed', ''] + ['- %s: %s' % item for item in errors] + ['']
    return '\n'.join(text)


# ---- SVG ------------------------------------------------------------------------------


def chart(results):
    """Bars of the rates, a panel a group; all panels have the scale of their own maximum."""
    lines, y, width, left = [], 10, 860, 250
    for group in results.groups:
        rates = [(row, results.median(group.key, row, 'rate')) for row in results.rows(group.key)]
        rates = [(row, rate) for row, rate in rates if rate]
        if not group.base or not rates:
            continue
        y += 22
        lines.append('<text x="10" y="%d" class="title">%s</text>' % (y, html.escape(group.title)))
        y += 8
        top = max(rate for _, rate in rates)
        for row, rate in rates:
            kind = 'tasker' if row.startswith('tasker') else 'floor' if row.startswith(('floor', 'INSERT', 'the ')) else 'peer'
            values = results.values(group.key, row, 'rate')
            scale = (width - left - 120) / top
            lines.append('<text x="%d" y="%d" text-anchor="end">%s</text>' % (left - 8, y + 12, html.escape(row)))
            lines.append('<rect x="%d" y="%d" width="%.1f" height="13" class="%s"/>' % (left, y + 1, rate * scale, kind))
            lines.append('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>' % (
                left + min(values) * scale, left + min(max(values), top * 1.1) * scale, y + 7, y + 7))
            lines.append('<text x="%.1f" y="%d">%s/s</text>' % (left + top * 1.1 * scale + 6, y + 12, number(rate)))
            y += 17
        y += 6
    style = ('text{font:12px sans-serif;fill:#222}.title{font-weight:bold}.tasker{fill:#2563a8}.floor{fill:#b9b9b9}'
             '.peer{fill:#d98c3f}line{stroke:#222}')
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d"><style>%s</style>'
            '<rect width="100%%" height="100%%" fill="#fff"/>%s</svg>\n' % (width, y + 10, style, '\n'.join(lines)))


def write(directory, results, facts, absent, errors):
    os.makedirs(directory, exist_ok=True)
    text = markdown(results, facts, absent, errors)
    for name, content in (('report.md', text), ('chart.svg', chart(results))):
        with open(os.path.join(directory, name), 'w', encoding='utf-8') as file:
            file.write(content)
    return text


def publish(directory, docs):
    """The report becomes the end of docs/performance.md, from its line of that name on."""
    path, mark = os.path.join(docs, 'performance.md'), '## The last run\n'
    with open(path, encoding='utf-8') as file:
        method = file.read().split(mark)[0]
    with open(os.path.join(directory, 'report.md'), encoding='utf-8') as file:
        lines = file.read().replace('](chart.svg)', '](performance.svg)').split('\n')
    text = '\n'.join(['Of ' + lines[0].split(', ')[-1] + '.'] + ['#' + line if line.startswith('#') else line for line in lines[1:]])
    with open(path, 'w', encoding='utf-8') as file:
        file.write(method + mark + '\n' + text)
    shutil.copy(os.path.join(directory, 'chart.svg'), os.path.join(docs, 'performance.svg'))
