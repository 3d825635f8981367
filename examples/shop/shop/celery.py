"""The shop's Celery app, as its workers run it: `celery -A shop worker`."""

from celery import Celery
from celery.schedules import crontab

app = Celery(
    "shop",
    broker="amqp://shop:secret@rabbit.internal:5672/shop",
    backend="redis://cache.internal:6379/4",
    include=["shop.mail", "shop.orders", "shop.payments", "shop.reports", "shop.stock"],
)
app.conf.update(
    timezone="Europe/Berlin",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_routes={
        "shop.mail.*": {"queue": "mail"},
        "shop.reports.*": {"queue": "reports"},
    },
    beat_schedule={
        "yesterday in figures": {
            "task": "shop.reports.daily",
            "schedule": crontab(hour=6, minute=0),
        },
    },
)
