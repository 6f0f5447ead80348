//! Values of one driver or handle that are given to another: each is refused by name, and nothing is lost by it.

use postbox::uring::{Delivery, Request};
use postbox::{ErrorKind, Listener, Mailbox, Pipe, Wait};
use postbox_tests::unique;

use crate::{LONG, driver, each, kind, mailbox, split};

#[test]
fn streams_refuse_buffers_of_another_driver() {
    let (a, b) = (driver(), driver());
    let (to_a, on_a) = split(8);
    let (to_b, on_b) = split(8);
    let (on_a, on_b) = (a.attach(on_a), b.attach(on_b));
    // The first group of each has the same number.
    let buffers_a = a.buffers(4, 256).expect("there is memory");
    let _buffers_b = b.buffers(4, 256).expect("there is memory");
    to_a.send("secret of mailbox A").expect("there is room");
    let mut own = on_a.messages(&buffers_a);
    drop(own.wait_next().expect("it goes on").expect("it came"));

    to_b.send("hello of mailbox B!").expect("there is room");
    let mut messages = on_b.messages(&buffers_a);
    let first = messages.wait_next().expect("an error comes first");
    assert_eq!(kind(first), ErrorKind::OtherOwner);
    assert!(messages.wait_next().is_none(), "it has ended");
    let first = on_b.deliveries(&buffers_a).wait_next();
    assert_eq!(kind(first.expect("an error")), ErrorKind::OtherOwner);
    let first = on_b.requests(&buffers_a).wait_next();
    assert_eq!(kind(first.expect("an error")), ErrorKind::OtherOwner);

    let name = unique("owners");
    let listener = b.attach(Listener::bind(&name).expect("the name is free"));
    let link = b.connect(&name, LONG).expect("the device is there");
    b.submit().expect("the ring works");
    let first = listener.links(&buffers_a).wait_next();
    assert_eq!(kind(first.expect("an error")), ErrorKind::OtherOwner);

    // What came is still there for those to whom it belongs.
    drop(listener.accept().wait().expect("it has connected"));
    drop(link.wait().expect("there was room"));
    let message = on_b.recv().wait().expect("it is there");
    assert_eq!(&*message, b"hello of mailbox B!");
    assert_eq!(buffers_a.available(), 4);
}

#[test]
fn registered_buffers_of_another_driver_are_refused() {
    let (a, b) = (driver(), driver());
    let fixed_a = a.register_buffers(2, 64).expect("there is memory");
    let _fixed_b = b.register_buffers(2, 64).expect("there is memory");
    let taken = || fixed_a.take().expect("one is free");
    let (to_b, on_b) = split(8);
    let sender = b.attach(to_b);
    let on_b = b.attach(on_b);
    let (sent, _) = sender.send_fixed(taken(), 3, 0, LONG).wait();
    assert_eq!(kind(sent), ErrorKind::OtherOwner);
    sender.send("there").wait().expect("there is room");
    let (received, _) = on_b.recv_fixed(taken(), LONG).wait();
    assert_eq!(kind(received), ErrorKind::OtherOwner);
    let (reader, writer) = Pipe::pair().expect("it can be made");
    let (written, _) = b.attach(writer).write_fixed(taken(), 3, LONG).wait();
    assert_eq!(kind(written), ErrorKind::OtherOwner);
    let (read, _) = b.attach(reader).read_fixed(taken(), LONG).wait();
    assert_eq!(kind(read), ErrorKind::OtherOwner);
    assert_eq!(fixed_a.available(), 2);
    assert_eq!(&*on_b.recv().wait().expect("it is there"), b"there");
}

#[test]
fn ack_refuses_a_delivery_of_another_handle() {
    each(|driver| {
        let (to_a, on_a) = split(8);
        let (to_b, on_b) = split(8);
        let (on_a, on_b) = (driver.attach(on_a), driver.attach(on_b));
        to_a.send("job A").expect("there is room");
        to_b.send("job B").expect("there is room");
        let of_a: Delivery = on_a.take().wait().expect("it is there");
        let of_b: Delivery = on_b.take().wait().expect("it is there");
        let acked = on_a.ack(of_b).wait();
        assert_eq!(kind(acked), ErrorKind::OtherOwner);
        // Neither was acknowledged: B's went back, and so does A's.
        drop(of_a);
        for (on, job) in [(&on_a, b"job A"), (&on_b, b"job B")] {
            let again = on.take_with(Wait::Never).wait().expect("it came back");
            assert_eq!((&**again, again.redelivered), (&job[..], true));
            // A clone is the same handle.
            on.clone().ack(again).wait().expect("it is ours");
        }
    });
}

#[test]
fn reply_refuses_a_request_of_another_handle() {
    each(|driver| {
        let (box_a, box_b): (Mailbox, Mailbox) = (mailbox(8), mailbox(8));
        let (to_a, on_a) = box_a.split().expect("there are descriptors");
        let (to_b, on_b) = box_b.split().expect("there are descriptors");
        let (on_a, on_b) = (driver.attach(on_a), driver.attach(on_b));
        let (to_a, to_b) = (driver.attach(to_a), driver.attach(to_b));
        let (call_a, call_b) = (to_a.call("to A"), to_b.call("to B"));
        driver.submit().expect("the ring works");
        let of_a: Request = on_a.recv_request().wait().expect("it came");
        let of_b: Request = on_b.recv_request().wait().expect("it came");
        let refused = on_a.reply(of_b, "answer to B").wait();
        let refused = refused.expect_err("it is of another handle");
        assert_eq!(refused.error.kind, ErrorKind::OtherOwner);
        assert_eq!(refused.payload, b"answer to B");
        let refused = on_a
            .reply_recv_with(*refused.request, "answer to B", Wait::Never)
            .wait();
        let refused = refused.expect_err("it is of another handle");
        assert_eq!(refused.error.kind, ErrorKind::OtherOwner);
        assert!(refused.request.is_open());
        on_b.reply(*refused.request, "answer to B")
            .wait()
            .expect("it is ours");
        on_a.reply(of_a, "answer to A").wait().expect("it is ours");
        assert_eq!(&*call_a.wait().expect("it was answered"), b"answer to A");
        assert_eq!(&*call_b.wait().expect("it was answered"), b"answer to B");
    });
}
