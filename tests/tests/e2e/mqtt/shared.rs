//! Shared subscriptions: each message goes to one member, and to another if that one leaves with it.

use tidings_e2e::mqtt::{Client, Connect, Publish, kind};
use tidings_e2e::{Options, Server};

use super::{numbered, texts};

const FILTER: &str = "$share/workers/jobs/#";

#[track_caller]
fn member(server: &Server, id: &str, receive_maximum: u16) -> Client {
    let with = Connect::v5(id).with(|properties| properties.short(0x21, receive_maximum));
    let (mut client, _) = Client::open(server.mqtt(), &with);
    assert_eq!(client.subscribe(&[(FILTER, 1)]), [1]);
    client
}

#[test]
fn each_message_goes_to_one_member_of_the_group() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    // Each takes five at a time, so ten messages need both.
    let mut members: Vec<Client> = (0..2)
        .map(|n| member(&server, &format!("w{n}"), 5))
        .collect();
    let (mut all, _) = Client::open(server.mqtt(), &Connect::v5("all"));
    assert_eq!(all.subscribe(&[("jobs/#", 0)]), [0]);
    let expect = numbered("job", 10);
    server.publish_batch("jobs/a", &expect);
    let mut got: Vec<String> = Vec::new();
    for member in &mut members {
        let messages: Vec<Publish> = (0..5).map(|_| member.message()).collect();
        for message in messages {
            member.acknowledge(kind::PUBACK, message.id);
            got.push(message.text());
        }
    }
    got.sort();
    assert_eq!(got, expect);
    // An ordinary subscription is beside the group.
    let seen: Vec<String> = (0..10).map(|_| all.receive().text()).collect();
    assert_eq!(seen, expect);
}

#[test]
fn what_a_member_leaves_behind_goes_to_another() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut leaver = member(&server, "leaver", 4);
    server.publish_batch("jobs/a", &numbered("job", 4));
    let taken: Vec<String> = (0..4).map(|_| leaver.message().text()).collect();
    assert_eq!(taken, numbered("job", 4));
    let mut stayer = member(&server, "stayer", 10);
    drop(leaver);
    let mut got: Vec<String> = (0..4).map(|_| stayer.receive().text()).collect();
    got.sort();
    assert_eq!(got, taken);
    server.publish("jobs/a", "next");
    assert_eq!(stayer.receive().text(), "next");
    assert_eq!(texts(&server, "jobs/a").len(), 5);
}

#[test]
fn no_local_is_refused_for_a_shared_subscription() {
    // MQTT-3.8.3-4: a protocol error.
    let server = Server::start(Options::default());
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("local"));
    client.send_subscribe(&[(FILTER, 0x05)], &tidings_e2e::mqtt::Properties::default());
    assert_eq!(client.until_closed(), Some(0x82));
}
