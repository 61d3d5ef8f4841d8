//! MQTT 3.1, 3.1.1 and 5.0 (`WIRE.md` beside this file lists the normative statements).

pub mod codec;
