//! What is granted, at random, and the checker that judges it. It knows nothing of how the server does that: it tries every
//! topic.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::who::{ALL, Kind};

/// The levels of topics. The last one is in no grant: it stands for every other text.
const LEVELS: [&str; 5] = ["a", "b", "ann", "bob", "other"];
/// Levels of the longest filter; topics have one more.
const DEPTH: usize = 3;

/// Numbers that depend on the seed alone (splitmix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    pub fn topic(&mut self) -> String {
        let count = 1 + self.below(DEPTH + 1);
        let mut levels: Vec<&str> = (0..count).map(|_| self.pick(&LEVELS)).collect();
        if self.one_in(8) {
            levels[0] = "$s";
        }
        levels.join("/")
    }

    /// A filter; with a place for the subject here and there, if it is for a rule.
    fn filter(&mut self, template: bool) -> String {
        let count = self.below(DEPTH) + 1;
        let granted = &LEVELS[..LEVELS.len() - 1];
        let mut levels: Vec<&str> = (0..count)
            .map(|_| match self.below(6) {
                0 | 1 => "+",
                2 if template => "{sub}",
                _ => self.pick(granted),
            })
            .collect();
        if self.one_in(8) {
            levels[0] = "$s";
        }
        if self.one_in(3) {
            levels[count - 1] = "#";
        }
        levels.join("/")
    }

    /// What a peer subscribes to: often a topic, or what a rule would have.
    pub fn wanted(&mut self) -> String {
        if self.one_in(3) {
            self.topic()
        } else {
            self.filter(false)
        }
    }

    fn filters(&mut self, max: usize, template: bool) -> Vec<String> {
        let count = self.below(max + 1);
        (0..count).map(|_| self.filter(template)).collect()
    }
}

/// Whether a topic is one of a filter's, by the words of MQTT (5.0, 4.7).
pub fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            ([level, filter @ ..], [name, topic @ ..]) => {
                (*level == "+" || level == name) && levels(filter, topic)
            }
            _ => false,
        }
    }
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    levels(&filter, &topic)
}

/// Every topic that is tried.
pub static EVERY_TOPIC: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut all: Vec<String> = LEVELS.iter().map(|level| (*level).to_owned()).collect();
    all.push("$s".to_owned());
    let mut last = all.clone();
    for _ in 0..DEPTH {
        last = last
            .iter()
            .flat_map(|topic| LEVELS.map(|level| format!("{topic}/{level}")))
            .collect();
        all.extend_from_slice(&last);
    }
    all
});

/// What somebody may do.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    publish: Vec<String>,
    subscribe: Vec<String>,
    deny_publish: Vec<String>,
    deny_subscribe: Vec<String>,
}

impl Rights {
    pub fn random(random: &mut Random, template: bool) -> Self {
        let mut deny = || {
            if random.one_in(3) {
                random.filters(1, template)
            } else {
                Vec::new()
            }
        };
        let (deny_publish, deny_subscribe) = (deny(), deny());
        Self {
            publish: random.filters(3, template),
            subscribe: random.filters(3, template),
            deny_publish,
            deny_subscribe,
        }
    }

    /// Whether that topic may be published to; `None` if nothing is said of it.
    pub fn publish(&self, topic: &str) -> Option<bool> {
        let of = |filters: &[String]| filters.iter().any(|filter| matches(filter, topic));
        decide(of(&self.publish), of(&self.deny_publish))
    }

    /// Whether one grant has every topic of the filter, and no denial has one of them; `None` if nothing is said of it.
    pub fn subscribe(&self, wanted: &str) -> Option<bool> {
        let wanted = EVERY_TOPIC.iter().filter(|topic| matches(wanted, topic));
        let wanted: Vec<&String> = wanted.collect();
        let has_all = |grant: &String| wanted.iter().all(|topic| matches(grant, topic));
        let has_one = |deny: &String| wanted.iter().any(|topic| matches(deny, topic));
        decide(
            self.subscribe.iter().any(has_all),
            self.deny_subscribe.iter().any(has_one),
        )
    }

    /// As a token has them, or an answer about one.
    pub fn json(&self) -> Value {
        let deny = json!({"publish": self.deny_publish, "subscribe": self.deny_subscribe});
        json!({"publish": self.publish, "subscribe": self.subscribe, "deny": deny})
    }

    /// As arguments of a command line, which has one list of denials for both ways.
    pub fn arguments(&mut self) -> Vec<String> {
        self.deny_subscribe.clone_from(&self.deny_publish);
        let lists = [
            ("publish", &self.publish),
            ("subscribe", &self.subscribe),
            ("deny", &self.deny_publish),
        ];
        let argument = |(flag, filters): (&str, &Vec<String>)| -> Vec<String> {
            let one = |filter| format!("--{flag}={filter}");
            filters.iter().map(one).collect()
        };
        lists.into_iter().flat_map(argument).collect()
    }

    pub fn add(&mut self, other: &Self, subject: &str) {
        let fill = |to: &mut Vec<String>, from: &[String]| {
            to.extend(from.iter().map(|filter| filter.replace("{sub}", subject)));
        };
        fill(&mut self.publish, &other.publish);
        fill(&mut self.subscribe, &other.subscribe);
        fill(&mut self.deny_publish, &other.deny_publish);
        fill(&mut self.deny_subscribe, &other.deny_subscribe);
    }

    fn is_empty(&self) -> bool {
        let lists = [&self.publish, &self.subscribe, &self.deny_publish];
        lists.iter().all(|list| list.is_empty()) && self.deny_subscribe.is_empty()
    }
}

fn decide(is_granted: bool, is_denied: bool) -> Option<bool> {
    match (is_granted, is_denied) {
        (_, true) => Some(false),
        (true, false) => Some(true),
        (false, false) => None,
    }
}

/// A rule of the permission file.
pub struct Rule {
    subject: Option<&'static str>,
    sources: Option<Vec<Kind>>,
    pub rights: Rights,
}

impl Rule {
    pub fn random(random: &mut Random) -> Self {
        let sources = random.one_in(2).then(|| {
            let mut kind = || ALL[random.below(ALL.len())];
            [(); 4].map(|()| kind()).to_vec()
        });
        let subjects = [None, None, Some("ann"), Some("b*"), Some("an*")];
        let subject = subjects[random.below(subjects.len())];
        let mut rights = Rights::random(random, true);
        if subject.is_none() {
            // They would be for the one who looks at everything as well.
            rights.deny_publish.clear();
            rights.deny_subscribe.clear();
        }
        if rights.is_empty() {
            rights.publish.push("{sub}".to_owned());
        }
        Self {
            subject,
            sources,
            rights,
        }
    }

    pub fn fits(&self, kind: Kind, name: &str) -> bool {
        let subject = self
            .subject
            .is_none_or(|subject| match subject.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => subject == name,
            });
        subject
            && match &self.sources {
                Some(kinds) => kinds.contains(&kind),
                None => kind != Kind::Anonymous,
            }
    }

    pub fn text(&self) -> String {
        let Rights {
            publish,
            subscribe,
            deny_publish,
            deny_subscribe,
        } = &self.rights;
        let mut text = format!(
            "[[rule]]\npublish = {publish:?}\nsubscribe = {subscribe:?}\n\
             deny = {{ publish = {deny_publish:?}, subscribe = {deny_subscribe:?} }}\n"
        );
        if let Some(subject) = self.subject {
            writeln!(text, "subject = {subject:?}").unwrap();
        }
        if let Some(kinds) = &self.sources {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.source()).collect();
            writeln!(text, "source = {names:?}").unwrap();
        }
        text
    }
}
