//! The figures of a measurement, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use super::server::Cpu;
use crate::cli::terminal::rate;
use crate::cli::{Load, Wire};

/// What was measured.
#[derive(Debug)]
pub(super) struct Figures {
    /// The measurement's name.
    pub(super) what: &'static str,
    /// Deliveries, acknowledged publishes, or idle connections.
    pub(super) count: u64,
    pub(super) elapsed: Duration,
    pub(super) latency_ns: Option<Histogram<u64>>,
    /// The server's, meanwhile.
    pub(super) cpu: Option<Cpu>,
    /// The server's, before the connections and with them.
    pub(super) memory_bytes: Option<(u64, u64)>,
}

/// From a microsecond to a minute, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are valid")
}

const MIB: f64 = 1024.0 * 1024.0;
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

impl Figures {
    /// Over MQTT, what is measured travels with this `QoS`.
    fn qos(&self, load: &Load) -> Option<u8> {
        match (load.protocol, self.what) {
            (Wire::Mqtt, "publish") => Some(1),
            (Wire::Mqtt, _) => Some(load.qos),
            _ => None,
        }
    }

    /// The protocol, for people.
    fn spoken(&self, load: &Load) -> String {
        let name = load.protocol.name();
        self.qos(load)
            .map_or_else(|| name.to_owned(), |qos| format!("{name} (QoS {qos})"))
    }

    fn unit(&self) -> (&'static str, &'static str) {
        match self.what {
            "fanout" => ("deliveries", "delivery"),
            "publish" => ("publishes", "publish"),
            _ => ("connections", "connection"),
        }
    }

    fn memory_per_connection(&self, load: &Load) -> Option<f64> {
        let (before, after) = self.memory_bytes?;
        Some((after as f64 - before as f64) / load.connections as f64)
    }

    /// Microseconds of the server's CPU, in its own code and in the kernel, for each.
    fn cpu_us_each(&self) -> Option<(f64, f64)> {
        let cpu = self.cpu?;
        let each = 1e6 / self.count.max(1) as f64;
        Some((cpu.user_s * each, cpu.system_s * each))
    }

    /// A few lines.
    pub(super) fn text(&self, load: &Load) -> String {
        let mut out = format!(
            "{}: {} connections over {}, {} messages of {} bytes, {} in flight, {} topics\n",
            self.what,
            load.connections,
            self.spoken(load),
            load.messages,
            load.payload_bytes,
            load.in_flight,
            load.topics,
        );
        self.write_text(load, &mut out)
            .expect("writing to memory does not fail");
        out
    }

    fn write_text(&self, load: &Load, out: &mut String) -> std::fmt::Result {
        let (many, one) = self.unit();
        let elapsed_s = self.elapsed.as_secs_f64();
        if let Some(latency_ns) = &self.latency_ns {
            let per_second = rate(self.count, self.elapsed);
            writeln!(
                out,
                "{many}: {} in {elapsed_s:.3} s, {per_second:.0}/s",
                self.count
            )?;
            write!(out, "latency:")?;
            for (name, quantile) in QUANTILES {
                let ms = latency_ns.value_at_quantile(quantile) as f64 / 1e6;
                write!(out, " {name} {ms:.3} ms,")?;
            }
            writeln!(out, " max {:.3} ms", latency_ns.max() as f64 / 1e6)?;
        }
        if let (Some(cpu), Some((user_us, system_us))) = (self.cpu, self.cpu_us_each()) {
            let busy = (cpu.user_s + cpu.system_s) / elapsed_s.max(1e-9) * 100.0;
            let sum_us = user_us + system_us;
            if self.what == "idle" {
                writeln!(out, "server CPU: {busy:.1} % of a core")?;
            } else {
                writeln!(
                    out,
                    "server CPU: {sum_us:.2} us per {one} (user {user_us:.2}, system {system_us:.2}), {busy:.0} % of a core"
                )?;
            }
        }
        if let (Some((before, after)), Some(each)) =
            (self.memory_bytes, self.memory_per_connection(load))
        {
            let (before, after) = (before as f64 / MIB, after as f64 / MIB);
            writeln!(
                out,
                "server memory: {:.2} KiB per connection ({before:.1} MiB before, {after:.1} MiB with them)",
                each / 1024.0
            )?;
        }
        Ok(())
    }

    /// One JSON object, and a line end.
    pub(super) fn json(&self, load: &Load) -> String {
        let mut value = json!({
            "bench": self.what,
            "protocol": load.protocol.name(),
            "connections": load.connections,
            "messages": load.messages,
            "payload_bytes": load.payload_bytes,
            "in_flight": load.in_flight,
            "topics": load.topics,
            "elapsed_s": self.elapsed.as_secs_f64(),
        });
        if let Some(qos) = self.qos(load) {
            value["qos"] = json!(qos);
        }
        if let Some(latency_ns) = &self.latency_ns {
            let (many, _) = self.unit();
            value[many] = json!(self.count);
            value[format!("{many}_per_s")] = json!(rate(self.count, self.elapsed));
            let us = |ns: u64| ns as f64 / 1e3;
            value["latency_us"] =
                json!({ "max": us(latency_ns.max()), "mean": latency_ns.mean() / 1e3 });
            for (name, quantile) in QUANTILES {
                value["latency_us"][name] = json!(us(latency_ns.value_at_quantile(quantile)));
            }
        }
        if let (Some(cpu), Some((user_us, system_us))) = (self.cpu, self.cpu_us_each()) {
            let (_, one) = self.unit();
            value["server_cpu"] = json!({ "user_s": cpu.user_s, "system_s": cpu.system_s });
            if self.what != "idle" {
                value["server_cpu"][format!("user_us_per_{one}")] = json!(user_us);
                value["server_cpu"][format!("system_us_per_{one}")] = json!(system_us);
            }
        }
        if let (Some((before, after)), Some(each)) =
            (self.memory_bytes, self.memory_per_connection(load))
        {
            value["server_memory"] = json!({
                "before_bytes": before,
                "with_connections_bytes": after,
                "bytes_per_connection": each,
            });
        }
        format!("{value}\n")
    }
}
