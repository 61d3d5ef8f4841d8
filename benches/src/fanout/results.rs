//! The tables of a fan-out, and whether its targets are reached.

use hdrhistogram::Histogram;

use super::contestants::{MOSQUITTO, MOSQUITTO_QOS_1, MQTT, MQTT_QOS_1, NATS, NCHAN_SSE, RAW, SSE};
use super::{BURST_MESSAGES, IN_FLIGHT, Load, Measured, PAYLOAD_BYTES, Record};
use crate::report::{Table, target};
use crate::spread::Spread;

const COLUMNS: [&str; 11] = [
    "server",
    "x floor, CPU",
    "min..max",
    "x floor, core busy",
    "CPU us/delivery",
    "user us",
    "system us",
    "core busy us",
    "deliveries/s, live",
    "p50 ms",
    "p99 / p99.9 ms",
];

/// MQTT has targets for this many subscribers.
const MQTT_SUBSCRIBERS_MAX: usize = 1_000;

/// One round's figure.
type Figure = fn(&Measured) -> f64;

/// A table for each number of messages in flight.
pub fn tables(load: Load, records: &[Record]) -> Vec<Table> {
    (0..IN_FLIGHT.len())
        .map(|index| table(load, records, index))
        .collect()
}

fn table(load: Load, records: &[Record], index: usize) -> Table {
    let pace = match IN_FLIGHT[index] {
        1 => "message by message".to_owned(),
        messages => format!("{messages} in flight"),
    };
    let subscribers = load.subscribers;
    let floor = &records[0].rounds[index];
    let measured = records.iter().filter(|one| one.failed.is_none());
    let mut table = Table {
        title: format!("Fan-out to {subscribers} subscribers, {PAYLOAD_BYTES} bytes, {pace}"),
        columns: COLUMNS.to_vec(),
        rows: measured.map(|one| row(one, index, floor)).collect(),
        notes: Vec::new(),
    };
    for one in records {
        if let Some(reason) = &one.failed {
            table
                .notes
                .push(format!("{} is left out: {reason}", one.contestant.name));
        }
    }
    table.notes.extend(targets(records, index));
    if load.subscribers <= MQTT_SUBSCRIBERS_MAX {
        table.notes.extend(mqtt_targets(records, index));
    }
    if index == 0 {
        table.notes.push(mqtt_note(records));
        let mut versions: Vec<&str> = records
            .iter()
            .map(|one| one.version.as_str())
            .filter(|version| !version.is_empty())
            .collect();
        versions.dedup();
        table.notes.push(versions.join(", "));
    }
    table
}

fn row(record: &Record, index: usize, floor: &[Measured]) -> Vec<String> {
    let rounds = &record.rounds[index];
    let cpu = Spread::of(ratios(rounds, floor, cpu_us));
    let busy = Spread::of(ratios(rounds, floor, busy_us));
    let median = |figure: Figure| Spread::of(rounds.iter().map(figure)).median;
    // The kernel's split is by sampling; the total is exact. So the split is of the total.
    let user = median(|one| cpu_us(one) * share_of_user(one));
    let system = median(|one| cpu_us(one) * (1.0 - share_of_user(one)));
    let latency = rounds.iter().map(|one| &one.latency);
    let latency = latency.fold(None, |sum: Option<Histogram<u64>>, next| match sum {
        Some(mut sum) => {
            // Of the same bounds, so that it cannot fail.
            sum.add(next).ok()?;
            Some(sum)
        }
        None => Some(next.clone()),
    });
    let ms = |quantile: f64| {
        let found = latency
            .as_ref()
            .map_or(0, |all| all.value_at_quantile(quantile));
        format!("{:.2}", found as f64 / 1e6)
    };
    vec![
        record.contestant.name.to_owned(),
        format!("{:.2}", cpu.median),
        format!("{:.2}..{:.2}", cpu.least, cpu.most),
        format!("{:.2}", busy.median),
        format!("{:.2}", median(cpu_us)),
        format!("{user:.2}"),
        format!("{system:.2}"),
        format!("{:.2}", median(busy_us)),
        format!(
            "{:.0}",
            median(|one| one.live_deliveries as f64 / one.live_s)
        ),
        ms(0.5),
        format!("{} / {}", ms(0.99), ms(0.999)),
    ]
}

/// Of each round's figure to the floor's of the same round.
fn ratios(rounds: &[Measured], floor: &[Measured], figure: Figure) -> Vec<f64> {
    let rounds = rounds.iter().map(figure);
    rounds
        .zip(floor.iter().map(figure))
        .map(|(figure, floor)| figure / floor)
        .collect()
}

fn cpu_us(measured: &Measured) -> f64 {
    measured.cpu.total_s * 1e6 / measured.deliveries as f64
}

fn busy_us(measured: &Measured) -> f64 {
    measured.busy_s * 1e6 / measured.deliveries as f64
}

/// With the acknowledgements of the quiet receivers.
fn acknowledged_us(measured: &Measured) -> f64 {
    let total_s = measured.cpu.total_s + measured.acknowledged.total_s;
    total_s * 1e6 / measured.deliveries as f64
}

fn share_of_user(measured: &Measured) -> f64 {
    let ticks = measured.cpu.user_s + measured.cpu.system_s;
    if ticks > 0.0 {
        measured.cpu.user_s / ticks
    } else {
        0.0
    }
}

/// Of the measurement's targets, those that it could be compared for.
fn targets(records: &[Record], index: usize) -> Vec<String> {
    let floor = &records[0].rounds[index];
    let ratio = |name: &str| {
        let record = records.iter().find(|one| one.contestant.name == name)?;
        let ratios = ratios(&record.rounds[index], floor, cpu_us);
        (record.failed.is_none() && !ratios.is_empty()).then(|| Spread::of(ratios).median)
    };
    let mut notes = Vec::new();
    let mut at_most = |what: &str, found: Option<f64>, limit: f64, unit: &str| {
        if let Some(found) = found {
            let text = format!("{what} at most {limit} x {unit}");
            notes.push(target(&text, found <= limit, &format!("{found:.2}")));
        }
    };
    let raw = ratio(RAW);
    let lowest_peer = records
        .iter()
        .filter(|one| !one.contestant.is_ours)
        .filter_map(|one| ratio(one.contestant.name))
        .reduce(f64::min);
    let of = |part: Option<f64>, whole: Option<f64>| Some(part? / whole?);
    if IN_FLIGHT[index] == 1 {
        at_most("WebSocket", raw, 1.15, "the floor's CPU per delivery");
        at_most("WebSocket", of(raw, lowest_peer), 1.0, "the lowest peer's");
        at_most("SSE", ratio(SSE), 1.25, "the floor's CPU per delivery");
        at_most("SSE", of(ratio(SSE), ratio(NCHAN_SSE)), 1.0, "nchan's SSE");
    } else {
        at_most("WebSocket", raw, 1.6, "the floor's CPU per delivery");
        at_most("WebSocket", of(raw, ratio(NATS)), 0.6, "nats-server's");
    }
    notes
}

/// Against mosquitto, each round's figure to that of the same round.
fn mqtt_targets(records: &[Record], index: usize) -> Vec<String> {
    let rounds = |name: &str| {
        let record = records.iter().find(|one| one.contestant.name == name)?;
        record.failed.is_none().then_some(&record.rounds[index])
    };
    let mut notes = Vec::new();
    if let (Some(ours), Some(theirs)) = (rounds(MQTT), rounds(MOSQUITTO)) {
        let least = if IN_FLIGHT[index] == 1 { 1.5 } else { 5.0 };
        let found = Spread::of(ratios(theirs, ours, cpu_us));
        let text = format!("MQTT: mosquitto's CPU per delivery at least {least} x ours");
        notes.push(target(&text, found.median >= least, &found.to_string()));
    }
    if let (Some(ours), Some(theirs)) = (rounds(MQTT_QOS_1), rounds(MOSQUITTO_QOS_1)) {
        let figures: [(&str, Figure); 2] = [
            ("CPU per delivery", cpu_us),
            ("CPU per acknowledged delivery", acknowledged_us),
        ];
        for (what, figure) in figures {
            let found = Spread::of(ratios(ours, theirs, figure));
            let text = format!("MQTT QoS 1: {what} below mosquitto's");
            notes.push(target(&text, found.median < 1.0, &found.to_string()));
        }
    }
    notes
}

/// How MQTT is measured, and what acknowledgements cost, which is not in the columns.
fn mqtt_note(records: &[Record]) -> String {
    let mut text = format!(
        "MQTT 3.1.1 is published and subscribed with the same quality of service. Receivers with QoS 1 acknowledge \
         a burst while they are drained, all of it in one write, and with each read when they are live. No window \
         stops a burst of {BURST_MESSAGES}: mosquitto has `max_inflight_messages 0` and `max_queued_messages 0`, \
         Tidings `limits.mqtt_window_max` of {}. Reading an acknowledgement costs, besides the figures above,",
        2 * BURST_MESSAGES
    );
    let costs = records
        .iter()
        .filter(|one| one.failed.is_none() && one.contestant.subscribe.is_acknowledged())
        .map(|one| {
            let all = one.rounds.iter().flatten();
            let us = Spread::of(all.map(|it| acknowledged_us(it) - cpu_us(it)));
            format!(" {us} us ({})", one.contestant.name)
        });
    text.push_str(&costs.collect::<Vec<String>>().join(","));
    text
}
