# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page's template. In Python, because Ansible ships nothing else to where a module's code runs."""

from __future__ import annotations

TEMPLATE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Page tables of {{ fleet.hosts | length | number }} hosts</title>
<style>
  @page { size: A4; margin: 14mm 12mm; }
  * { box-sizing: border-box; }
  html { font-size: 15px; }
  body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 1060px; color: #12222b; background: #fff;
         font: 1rem/1.45 system-ui, "DejaVu Sans", sans-serif; }
  h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; }
  h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; break-after: avoid; }
  p { margin: .3rem 0 .8rem; max-width: 75ch; }
  .lead, .small { color: #4a5960; }
  .small { font-size: .85rem; }
  .tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem; margin: 1.2rem 0; padding: 0;
           list-style: none; }
  .tiles li { border: 1px solid #c9d1d6; border-top: 4px solid #0b4f6c; border-radius: 4px;
              padding: .7rem .8rem; }
  .tiles strong { display: block; font-size: 1.55rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
  .tiles span:not(.kind) { display: block; }
  .tiles li > .small { margin-top: .15rem; }
  .kind { display: inline-block; border: 1px solid #8a949a; border-radius: 9px; padding: 0 .5em;
          color: #33434b; font-size: .72rem; line-height: 1.5; font-weight: normal; white-space: nowrap; }
  .missing { border: 1px solid #b3261e; border-left-width: 5px; border-radius: 4px; padding: .6rem .9rem;
             margin: 1rem 0; }
  .missing h2 { margin: 0 0 .3rem; color: #8c1d18; }
  table { border-collapse: collapse; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; }
  .about { color: #4a5960; font-size: .85rem; break-after: avoid; }
  th, td { text-align: left; vertical-align: top; padding: .32rem .5rem; border-bottom: 1px solid #dfe4e7; }
  th { vertical-align: bottom; border-bottom: 2px solid #12222b; line-height: 1.25; }
  th.group { text-align: center; border-bottom-width: 1px; }
  td.n, th.n { text-align: right; white-space: nowrap; }
  th.n { white-space: normal; }
  td.name { overflow-wrap: anywhere; min-width: 6em; }
  td .small { overflow-wrap: normal; }
  tbody tr:nth-child(even) { background: #f5f7f8; }
  .meter { display: block; height: 3px; background: #0b4f6c; margin: 2px 0 0 auto; max-width: 100%; }
  figure { margin: 0; break-inside: avoid; }
  figure svg { width: 100%; height: auto; }
  figure svg text.label { text-anchor: middle; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem .9rem; font-size: .87rem; }
  dd { margin: 0; }
  @media (max-width: 700px) { .tiles { grid-template-columns: repeat(2, 1fr); } .wide { overflow-x: auto; } }
  @media print {
    html { font-size: 11.5px; }
    body { padding: 0; max-width: none; }
    h2 { margin-top: 1.4rem; }
    figure svg { max-height: 120mm; }
    th, td { padding: .15rem .3rem; }
    .meter { height: 2px; }
    thead { display: table-header-group; }
    tr { break-inside: avoid; }
    .tiles, #savings { break-inside: avoid; }
    * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  }
</style>
</head>
<body>
{% macro kind(word) %}<span class="kind">{{ word }}</span>{% endmacro %}
{% macro head(text, word="") %}
<th class="n">{{ text }}{% if word %}<br>{{ kind(word) }}{% endif %}</th>
{% endmacro %}
{% macro size(value_bytes) %}<td class="n">{{ value_bytes | size }}</td>{% endmacro %}
{% macro name(text, below="") %}
<td class="name">{{ text }}{% if below %}<br><span class="small">{{ below }}</span>{% endif %}</td>
{% endmacro %}
{% set most_bytes = (fleet.hosts[0].page_tables_bytes if fleet.hosts else 0) or 1 %}
<header>
  <h1>Page tables across the fleet</h1>
  <p class="lead" id="summary">{{ fleet.hosts | length | number }} hosts surveyed
    {%- if fleet.partial %}, {{ fleet.partial | length | number }} of them in part{% endif %},
    {{ fleet.missing | length | number }} missing; {{ fleet.instances | length | number }} instances.
    {%- for one in fleet.shared_kernels %} {{ one }}.{% endfor %}</p>
</header>

<ul class="tiles">
  <li id="total"><span>Page tables now</span><strong>{{ fleet.page_tables_bytes | size }}</strong>
    {{ kind("measured") }}
    <span class="small">{{ fleet.percent_of_memory | percent }} of
    {{ fleet.memory_bytes | size }} of memory</span>
  </li>
  <li id="maximum"><span>Of instances, at their maximum</span>
    <strong>{{ fleet.at_maximum_bytes | size }}</strong>
    {{ kind(fleet.at_maximum_kind) }}
    <span class="small">now {{ fleet.in_instances_bytes | size }}, with the processes there are</span></li>
{% for id, saving, what in
   [("huge", fleet.huge, "Huge pages of 2 MiB"), ("mshare", fleet.mshare, "mshare")] %}
  <li id="{{ id }}"><span>{{ what }} would save</span><strong>{{ saving.now.saved_bytes | size }}</strong>
    {{ kind(saving.now.kind) }}
    <span class="small">{{ saving.maximum.saved_bytes | size }} at the maximum</span></li>
{% endfor %}
</ul>

{% if fleet.missing %}
<section class="missing" id="missing">
  <h2>Missing: {{ fleet.missing | length | number }}</h2>
  <p class="small">No figure on this page contains them.</p>
  <table><thead><tr><th>Host</th><th>Why</th></tr></thead><tbody>
  {% for one in fleet.missing %}
    <tr>{{ name(one.host) }}{{ name(one.reason) }}</tr>
  {% endfor %}
  </tbody></table>
</section>
{% endif %}

{% if chart %}
<h2>By host and instance</h2>
<figure id="chart">
  <figcaption class="small">Page tables now {{ kind("measured") }}
  {%- if fleet.hosts | length > most_hosts %}
; the {{ most_hosts }} hosts with most of {{ fleet.hosts | length | number }}
  {%- endif -%}
  . What is in no instance includes what the kernel counts in PageTables but in no process.</figcaption>
  {{ chart | safe }}
</figure>
{% endif %}

<h2>What each remedy would save</h2>
<div class="wide"><table id="savings">
<thead>
<tr><th rowspan="2">Remedy</th><th rowspan="2" class="n">instances that<br>can use it today</th>
<th colspan="3" class="group">with the processes there are</th>
<th colspan="3" class="group">with as many as there may be</th></tr>
<tr>{{ head("now") }}{{ head("after") }}{{ head("saved") }}
{{ head("without") }}{{ head("after") }}{{ head("saved") }}</tr>
</thead>
<tbody>
{% for saving in fleet.savings %}
<tr><td>{{ saving.name }}</td>
<td class="n">{{ saving.usable | number }} of {{ saving.instances | number }}</td>
{% for effect in (saving.now, saving.maximum) %}
{{ size(effect.before_bytes) }}{{ size(effect.after_bytes) }}
<td class="n"><b>{{ effect.saved_bytes | size }}</b> ({{ effect.saved_percent | percent }})<br>
{{ kind(effect.kind) }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="small">Savings are those of all instances, whether or not they can use the remedy today: no released
kernel has mshare yet. Remedies replace each other; their savings do not add up. Only tables of shared
segments are saved, and huge pages are memory set aside in advance. <code>mshare plan</code>
tells for one host why an instance cannot use a remedy, and what to type where it can.</p>

<h2>Hosts</h2>
<p class="about">The host with most page tables first. Page tables, memory, huge pages:
{{ kind("measured") }}</p>
<div class="wide"><table id="hosts">
<thead><tr><th>Host</th>{{ head("page tables") }}{{ head("of memory") }}{{ head("memory") }}
{{ head("available") }}{{ head("huge pages") }}<th>THP<br>anonymous / shmem</th>
<th>largest instance</th><th>not complete</th></tr></thead>
<tbody>
{% for host in fleet.hosts %}
<tr>{{ name(host.name) }}<td class="n">{{ host.page_tables_bytes | size }}
<span class="meter" style="width: {{ (100 * host.page_tables_bytes / most_bytes) | round(1) }}%"></span></td>
<td class="n">{{ host.percent_of_memory | percent }}</td>{{ size(host.memory_bytes) }}
{{ size(host.available_bytes) }}{{ size(host.huge_pages_bytes) }}<td>{{ host.thp }}</td>
{{ name(host.instances[0].name if host.instances else "none") }}{{ name(host.remarks | join("; ")) }}</tr>
{% endfor %}
</tbody></table></div>

<h2>Instances</h2>
<p class="about">The instance with most page tables first
{%- if fleet.instances | length > instances | length %}
; {{ instances | length }} of {{ fleet.instances | length | number }}, all are in report.csv
{%- endif %}.</p>
<div class="wide"><table id="instances">
<thead><tr><th>Instance</th><th>host</th><th>segments</th><th class="n">processes<br>now / maximum</th>
{{ head("each", "measured") }}{{ head("all now", "measured") }}{{ head("at maximum", fleet.at_maximum_kind) }}
{{ head("huge pages save", fleet.huge.now.kind) }}
{{ head("mshare saves", fleet.mshare.now.kind) }}</tr></thead>
<tbody>
{% for one in instances %}
<tr>{{ name(one.name, one.kind) }}{{ name(one.host) }}
<td>{{ one.segments_bytes | size }}<br><span class="small">{{ one.segment }}</span></td>
<td class="n">{{ one.processes | number }} /
{{ one.processes_maximum | number if one.processes_maximum else "unknown" }}</td>
{{ size(one.page_tables_average_bytes) }}{{ size(one.page_tables_bytes) }}{{ size(one.at_maximum_bytes) }}
{{ size(one.saving(huge).now.saved_bytes) }}{{ size(one.saving(mshare).now.saved_bytes) }}</tr>
{% endfor %}
</tbody></table></div>

<h2>How to read the figures</h2>
<dl>
<dt>{{ kind("measured") }}</dt>
<dd>read from the kernel: PageTables of a host, VmPTE of a process. Never RSS or PSS.</dd>
<dt>{{ kind("modelled") }}</dt>
<dd>arithmetic with what was measured: 4 KiB of page tables for every 2 MiB, 1 GiB and 512 GiB a process
touched. Huge pages leave out the lower levels, mshare pays for all levels once.</dd>
<dt>{{ kind("projected") }}</dt>
<dd>scaled to the configured maximum of processes (where that is unknown, to those there are), or what a
kernel would do that nobody runs yet.</dd>
</dl>
</body>
</html>
"""
