"""Load tests of the task service and of anybody's Celery app; `taskservice load` runs the same users.

    locust -f loadtests/locustfile.py TaskUser --headless --users 50 --run-time 30s
    locust -f loadtests/locustfile.py CeleryUser --load-app shop.celery:app --load-task shop.reports.add_up \
        --load-args '[[40, 60]]' --load-rate 200/s --load-shape spike

``locust -f loadtests/locustfile.py --help`` lists the ``--load-`` flags. Without --headless there is
Locust's web page; with --master and --worker, on any number of machines, the accounts of all are added up.
"""

from taskservice.load.locustfile import ApiUser, CeleryUser, StoryUser, TaskUser, WorkflowUser

__all__ = ["ApiUser", "CeleryUser", "StoryUser", "TaskUser", "WorkflowUser"]
