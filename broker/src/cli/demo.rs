//! `alluvium demo`: a broker in this process with traffic on it, a card of lines to copy, then one live line.
//!
//! ```text
//! thread: the broker        here: producer -> orders (6 partitions) -> group dashboard (two members, at the tail)
//!                                                                   -> group replay (from the start, again and again)
//! ```

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Context,
    client::{Client, TopicPartition, lock},
    consumer::{FetchOptions, Fetcher},
    failure::{CommandError, Exit, Failure},
    group_member::GroupMember,
    interrupted,
    jsonl::ProducedRecord,
    producer::{Producer, ProducerOptions},
    settings::Settings,
};
use crate::{
    clock::{Clock, entropy},
    config::Config,
    server::{self, Addresses, ServerOptions},
};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 6;

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Events a second
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Keep the data in this directory [default: a temporary one that is removed at the end]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Port of the broker; 0 takes a free one [default: 9092 if it is free]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Print one line of JSON once the first record was consumed, and no card
    #[arg(long, value_enum, value_name = "FORMAT")]
    print_ready: Option<ReadyFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReadyFormat {
    /// {"bootstrap", "admin", "pid", "topic"}
    Json,
}

/// What the live line shows.
#[derive(Debug, Default)]
struct Counters {
    produced: AtomicU64,
    dashboard: AtomicU64,
    replayed: AtomicU64,
    replays: AtomicU64,
    /// Positions of the dashboard, behind what it has seen.
    positions: Mutex<BTreeMap<TopicPartition, i64>>,
    failure: Mutex<Option<Failure>>,
}

pub(super) async fn run(context: &Context, arguments: DemoArgs) -> Result<Exit, CommandError> {
    let mut broker = Broker::start(&arguments)?;
    let addresses = tokio::select! {
        addresses = &mut broker.ready => addresses,
        () = interrupted() => return Ok(broker.stop(Exit::Interrupted)),
    };
    let Ok(addresses) = addresses else {
        let why = broker.join().map_or_else(|why| why, |()| "it ended at once".to_owned());
        return Err(Failure::local(
            Exit::Failed,
            "SERVER",
            "broker",
            format!("the broker did not start: {why}"),
        )
        .into());
    };
    let result = tokio::select! {
        result = play(context, &arguments, &addresses) => result,
        () = interrupted() => Ok(Exit::Interrupted),
    };
    if io::stdout().is_terminal() {
        println!();
    }
    eprintln!("stopping");
    match result {
        Ok(exit) => Ok(broker.stop(exit)),
        Err(error) => {
            broker.stop(Exit::Failed);
            Err(error)
        }
    }
}

/// The broker on its thread.
struct Broker {
    ready: oneshot::Receiver<Addresses>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Broker {
    fn start(arguments: &DemoArgs) -> Result<Self, Failure> {
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = arguments.port.unwrap_or(if free(9092) { 9092 } else { 0 });
        let admin_port = if arguments.port.is_none() && free(9644) { 9644 } else { 0 };
        let listeners = format!("PLAINTEXT://127.0.0.1:{port}");
        let admin = format!("127.0.0.1:{admin_port}");
        let directory = arguments.keep.as_ref().map(|path| path.display().to_string());
        let mut set = vec![
            ("listeners", listeners.as_str()),
            ("admin.listen", admin.as_str()),
            ("group.initial.rebalance.delay.ms", "0"),
            // It has few partitions, and something to look at.
            ("metrics.partition.level", "all"),
        ];
        if let Some(directory) = &directory {
            set.push(("log.dir", directory.as_str()));
        }
        let config = Config::with(&set).map_err(|error| Failure::usage("demo", error.to_string()))?;
        let options = ServerOptions {
            config,
            ephemeral: arguments.keep.is_none(),
            print_ready: false,
            temporary: std::env::temp_dir(),
            disk: Arc::new(log_store::disk::RealDisk),
        };
        let (stop, stopped) = oneshot::channel();
        let (tell, ready) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("broker".to_owned())
            .spawn(move || {
                server::run_until(options, Some(stopped), |addresses| {
                    // nobody listens where the demo was interrupted
                    let _ = tell.send(addresses.clone());
                })
            })
            .map_err(|error| {
                Failure::local(Exit::Failed, "SYSTEM", "broker", format!("no thread: {error}"))
            })?;
        Ok(Self { ready, stop: Some(stop), thread: Some(thread) })
    }

    fn join(&mut self) -> Result<(), String> {
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(Err(error))) => Err(format!("{error:#}")),
            Some(Err(_)) => Err("it panicked".to_owned()),
            _ => Ok(()),
        }
    }

    /// Stops it and waits until its directory is gone.
    fn stop(mut self, exit: Exit) -> Exit {
        if let Some(stop) = self.stop.take() {
            // it may have stopped already
            let _ = stop.send(());
        }
        match self.join() {
            Ok(()) => exit,
            Err(why) => {
                eprintln!("error: the broker did not stop in good order: {why}");
                Exit::Failed
            }
        }
    }
}

async fn play(context: &Context, arguments: &DemoArgs, addresses: &Addresses) -> Result<Exit, CommandError> {
    let settings = Settings {
        brokers: vec![addresses.bootstrap.clone()],
        client_id: "demo".to_owned(),
        ..context.settings.clone()
    };
    let client = Client::connect(&settings).await?;
    match client.create_topic(TOPIC, PARTITIONS).await {
        // a directory that was kept has it already
        Err(failure) if failure.code != Some(36) => return Err(failure.into()),
        _ => {}
    }
    let counters = Arc::new(Counters::default());
    let mut tasks = tokio::task::JoinSet::new();
    for member in ["dashboard-1", "dashboard-2"] {
        let settings = Settings { client_id: member.to_owned(), ..settings.clone() };
        tasks.spawn(dashboard(member, settings, Arc::clone(&counters)));
    }
    tasks.spawn(replay(
        Settings { client_id: "replay-1".to_owned(), ..settings.clone() },
        Arc::clone(&counters),
    ));
    tasks.spawn(produce(Arc::clone(&client), context.clock.clone(), arguments.rate, Arc::clone(&counters)));
    let first = async {
        while counters.dashboard.load(Ordering::Relaxed) + counters.replayed.load(Ordering::Relaxed) == 0 {
            fail_if_failed(&counters)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<(), Failure>(())
    };
    first.await?;
    if arguments.print_ready.is_some() {
        let line = json!({
            "bootstrap": addresses.bootstrap,
            "admin": addresses.admin,
            "pid": std::process::id(),
            "topic": TOPIC,
        });
        println!("{line}");
        io::stdout().flush()?;
    } else {
        print_card(arguments, addresses)?;
    }
    live(&client, &counters, arguments.print_ready.is_none()).await
}

fn fail_if_failed(counters: &Counters) -> Result<(), Failure> {
    match lock(&counters.failure).take() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// A believable order.
fn order(number: u64, now_ms: i64) -> ProducedRecord {
    const ITEMS: [(&str, u64); 6] = [
        ("espresso", 250),
        ("flat white", 420),
        ("croissant", 310),
        ("bagel", 480),
        ("orange juice", 390),
        ("beans 250 g", 1190),
    ];
    const CITIES: [&str; 5] = ["Lisbon", "Kyoto", "Nairobi", "Tallinn", "Valparaiso"];
    let dice = entropy();
    let pick = |shift: u32, sides: u64| usize::try_from((dice >> shift) % sides).unwrap_or(0);
    let (item, price) = ITEMS[pick(0, 6)];
    let quantity = 1 + (dice >> 8) % 4;
    let customer = format!("customer-{:03}", (dice >> 16) % 400);
    let value = json!({
        "order": number,
        "customer": customer,
        "item": item,
        "quantity": quantity,
        "cents": price * quantity,
        "city": CITIES[pick(32, 5)],
    });
    ProducedRecord {
        key: Some(Bytes::from(customer)),
        value: Some(Bytes::from(value.to_string())),
        timestamp: Some(now_ms),
        ..Default::default()
    }
}

async fn produce(client: Arc<Client>, clock: Clock, rate: u64, counters: Arc<Counters>) {
    let result = async {
        let (mut producer, mut deliveries) =
            Producer::new(client, TOPIC, ProducerOptions::default(), clock.clone()).await?;
        let began = Instant::now();
        let mut number = 0_u64;
        loop {
            #[expect(clippy::cast_precision_loss, reason = "a pace, not a count")]
            let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    producer.send(order(number, clock.now_ms()), number).await?;
                    number += 1;
                }
                Some(delivery) = deliveries.recv() => {
                    delivery.result?;
                    counters.produced.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    let result: Result<(), Failure> = result.await;
    if let Err(failure) = result {
        lock(&counters.failure).get_or_insert(failure);
    }
}

/// A member of the group at the tail; a static one, so that a demo that keeps its data begins again at once.
async fn dashboard(name: &'static str, settings: Settings, counters: Arc<Counters>) {
    let result = async {
        let client = Client::connect(&settings).await?;
        let mut member =
            GroupMember::new(Arc::clone(&client), "dashboard", vec![TOPIC.into()]).known_as(name);
        loop {
            let mut positions =
                member.join().await?.into_iter().map(|partition| (partition, 0)).collect::<BTreeMap<_, _>>();
            let committed = client.committed("dashboard").await?;
            for (partition, position) in &mut positions {
                *position = committed.get(partition).copied().unwrap_or(0);
            }
            let mut fetcher = Fetcher::start(Arc::clone(&client), positions.clone(), FetchOptions::default());
            let mut next_commit = Instant::now() + Duration::from_secs(1);
            loop {
                tokio::select! {
                    Some(fetched) = fetcher.next() => {
                        let fetched = fetched?;
                        counters.dashboard.fetch_add(fetched.count, Ordering::Relaxed);
                        lock(&counters.positions).insert(fetched.partition.clone(), fetched.next_offset);
                        positions.insert(fetched.partition, fetched.next_offset);
                    }
                    disturbed = member.disturbed() => {
                        disturbed?;
                        break;
                    }
                    () = tokio::time::sleep_until(next_commit) => {
                        next_commit = Instant::now() + Duration::from_secs(1);
                        member.commit(&positions).await?;
                    }
                }
            }
            member.commit(&positions).await?;
        }
    };
    let result: Result<(), Failure> = result.await;
    if let Err(failure) = result {
        lock(&counters.failure).get_or_insert(failure);
    }
}

/// The group that reads everything from the start to the end as it is then, commits, and begins again.
async fn replay(settings: Settings, counters: Arc<Counters>) {
    let result = async {
        let client = Client::connect(&settings).await?;
        let mut member =
            GroupMember::new(Arc::clone(&client), "replay", vec![TOPIC.into()]).known_as("replay-1");
        loop {
            let owned = member.join().await?;
            loop {
                let watermarks = client.watermarks(&owned).await?;
                let mut positions: BTreeMap<TopicPartition, i64> =
                    watermarks.iter().map(|(partition, (start, _))| (partition.clone(), *start)).collect();
                let behind = |positions: &BTreeMap<TopicPartition, i64>| {
                    watermarks.iter().any(|(partition, (_, end))| {
                        positions.get(partition).is_some_and(|position| position < end)
                    })
                };
                let mut fetcher =
                    Fetcher::start(Arc::clone(&client), positions.clone(), FetchOptions::default());
                while behind(&positions) {
                    let Some(fetched) = fetcher.next().await else { break };
                    let fetched = fetched?;
                    counters.replayed.fetch_add(fetched.count, Ordering::Relaxed);
                    positions.insert(fetched.partition, fetched.next_offset);
                }
                drop(fetcher);
                member.commit(&positions).await?;
                counters.replays.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    disturbed = member.disturbed() => {
                        disturbed?;
                        break;
                    }
                    () = tokio::time::sleep(Duration::from_secs(5)) => {}
                }
            }
        }
    };
    let result: Result<(), Failure> = result.await;
    if let Err(failure) = result {
        lock(&counters.failure).get_or_insert(failure);
    }
}

fn print_card(arguments: &DemoArgs, addresses: &Addresses) -> Result<(), CommandError> {
    let bootstrap = &addresses.bootstrap;
    let option = match bootstrap.as_str() {
        "127.0.0.1:9092" => String::new(),
        other => format!(" -B {other}"),
    };
    let kept = match &arguments.keep {
        Some(path) => format!("kept in {}", path.display()),
        None => "temporary, removed at the end".to_owned(),
    };
    let admin = addresses.admin.as_deref().unwrap_or("nowhere");
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "\
  Alluvium: one broker at {bootstrap}, data {kept}
  Topic orders, {PARTITIONS} partitions, {rate} events/s, each on disk before it is acknowledged
  Group dashboard: two members at the tail.  Group replay: from the start, again and again
  Metrics: http://{admin}/metrics

  alluvium consume orders -o -5 -n 5{option}
  alluvium group lag dashboard{option}
  alluvium produce orders '{{\"hello\":\"world\"}}' -k me{option}
  kcat -b {bootstrap} -t orders -C -o -5 -c 5
  python3 -c \"from confluent_kafka import Consumer; c = Consumer({{'bootstrap.servers': '{bootstrap}', 'group.id': 'me'}}); c.subscribe(['orders']); [print(m.value().decode()) for m in iter(lambda: c.poll(10), None)]\"
  Ctrl-C ends it
",
        rate = arguments.rate,
    )?;
    out.flush()?;
    Ok(())
}

/// One line that moves: rates and lag.
async fn live(client: &Client, counters: &Counters, shown: bool) -> Result<Exit, CommandError> {
    let terminal = io::stdout().is_terminal();
    let topic: Vec<Arc<str>> = vec![TOPIC.into()];
    let partitions = client.partitions(&topic).await?;
    let mut before = [0_u64; 3];
    let mut at = Instant::now();
    let mut seconds = 0_u64;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fail_if_failed(counters)?;
        seconds += 1;
        let positions = lock(&counters.positions).clone();
        let ends = client.watermarks(&partitions).await?;
        let lag: i64 = ends
            .iter()
            .map(|(partition, (start, end))| {
                (end - positions.get(partition).copied().unwrap_or(*start)).max(0)
            })
            .sum();
        let now = [&counters.produced, &counters.dashboard, &counters.replayed]
            .map(|counter| counter.load(Ordering::Relaxed));
        let elapsed = at.elapsed().as_secs_f64();
        at = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a rate is for reading")]
        let rates = [0, 1, 2].map(|index| ((now[index] - before[index]) as f64 / elapsed).round());
        before = now;
        let line = format!(
            "  {} acknowledged, {}/s   dashboard {}/s, lag {lag}   replay {}/s, {} times through",
            now[0],
            rates[0],
            rates[1],
            rates[2],
            counters.replays.load(Ordering::Relaxed)
        );
        let mut out = io::stdout().lock();
        match (shown, terminal) {
            (false, _) => {}
            (true, true) => write!(out, "\r\x1b[2K{line}")?,
            // a file or a pipe gets a line now and then
            (true, false) if seconds % 10 == 1 => writeln!(out, "{line}")?,
            (true, false) => {}
        }
        out.flush()?;
    }
}
